// Command hello is a container for the tests of package cluster: it says hello
// to its arguments, and sleeps when it is told to.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	fmt.Println("hello", strings.Join(os.Args[1:], " "), os.Getenv("GREETING"))
	if d, err := time.ParseDuration(os.Getenv("SLEEP")); err == nil {
		time.Sleep(d)
	}
}
