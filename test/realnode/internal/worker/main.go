// Command worker is a container that writes to a register, for the tests of package
// realnode: every 100 ms, with the fencing token that it was given, until the register
// says that its work is done.
//
// It says there when it is sent SIGTERM. It then goes on for STOP_FOR, or until it is
// killed where that is "never".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const every = 100 * time.Millisecond

func main() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("fence", os.Getenv("REDISLOCK_FENCING_TOKEN"))
	if err := work(term); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func work(term <-chan os.Signal) error {
	conn, err := net.DialTimeout("tcp", os.Getenv("REGISTER"), 5*time.Second)
	if err != nil {
		return err
	}
	replies := bufio.NewReader(conn)
	write := func(event string) (done bool, err error) {
		message := map[string]string{
			"token": os.Getenv("REDISLOCK_FENCING_TOKEN"), "cluster": os.Getenv("CLUSTER"), "pod": os.Getenv("POD"), "event": event,
		}
		if err := json.NewEncoder(conn).Encode(message); err != nil {
			return false, err
		}
		line, err := replies.ReadBytes('\n')
		if err != nil {
			return false, err
		}
		var reply struct{ Accepted, Done bool }
		if err := json.Unmarshal(line, &reply); err != nil {
			return false, err
		}
		if !reply.Accepted {
			fmt.Println("refused: a higher fencing token was seen")
		}
		return reply.Done, nil
	}
	tick := time.NewTicker(every)
	var end <-chan time.Time
	for event := "start"; ; {
		done, err := write(event)
		if done || err != nil {
			return err
		}
		event = "write"
		select {
		case <-tick.C:
		case <-end:
			os.Exit(128 + int(syscall.SIGTERM))
		case <-term:
			fmt.Println("SIGTERM")
			event = "SIGTERM"
			if d, err := time.ParseDuration(os.Getenv("STOP_FOR")); err == nil {
				end = time.After(d)
			}
		}
	}
}
