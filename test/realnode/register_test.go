package realnode

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// register is what the containers write to, and admits a token only while it has seen
// no higher one: what a resource has to do for the lock to be of any use to it.
type register struct {
	port int

	mu      sync.Mutex
	highest uint64
	runs    []*process
	done    bool
}

// process is one run of the worker, from when it connected until its end of the
// connection was closed, which the kernel does when the process dies.
type process struct {
	token            uint64
	cluster, pod     string
	start, term, end time.Time
	lastAccepted     time.Time
	refused          int
}

func newRegister() *register {
	GinkgoHelper()
	listener, err := net.Listen("tcp4", "0.0.0.0:0") // pods reach it by their node's gateway
	Expect(err).NotTo(HaveOccurred())
	r := &register{port: listener.Addr().(*net.TCPAddr).Port}
	DeferCleanup(listener.Close)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(conn)
		}
	}()
	return r
}

func (r *register) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var p *process
	for scanner := bufio.NewScanner(conn); scanner.Scan(); {
		var message struct{ Token, Cluster, Pod, Event string }
		if err := json.Unmarshal(scanner.Bytes(), &message); err != nil {
			break
		}
		token, err := strconv.ParseUint(message.Token, 10, 64)
		if err != nil {
			break
		}
		r.mu.Lock()
		if p == nil {
			p = &process{token: token, cluster: message.Cluster, pod: message.Pod, start: time.Now()}
			r.runs = append(r.runs, p)
		}
		if message.Event == "SIGTERM" {
			p.term = time.Now()
		}
		accepted := token >= r.highest
		if accepted {
			r.highest, p.lastAccepted = token, time.Now()
		} else {
			p.refused++
		}
		reply := map[string]bool{"accepted": accepted, "done": r.done}
		r.mu.Unlock()
		if err := json.NewEncoder(conn).Encode(reply); err != nil {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p != nil {
		p.end = time.Now()
	}
}

// finish has all workers end of themselves, those that are still to come too.
func (r *register) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
}

// processes are copies of those seen so far, in the order in which they started.
func (r *register) processes() []process {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []process
	for _, p := range r.runs {
		list = append(list, *p)
	}
	return list
}

// overlaps names processes that were there at the same time.
func (r *register) overlaps() []string {
	var found []string
	list := r.processes()
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.end.IsZero() || a.end.After(b.start) {
				found = append(found, fmt.Sprintf("%s and %s", a, b))
			}
		}
	}
	return found
}

// staleAccepted names processes that the register let write after one with a higher
// token had begun.
func (r *register) staleAccepted() []string {
	var found []string
	list := r.processes()
	for _, a := range list {
		if slices.ContainsFunc(list, func(b process) bool { return b.token > a.token && a.lastAccepted.After(b.start) }) {
			found = append(found, a.String())
		}
	}
	return found
}

func (p process) String() string {
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format("15:04:05.000")
	}
	return fmt.Sprintf("%s/%s fence %d start %s SIGTERM %s gone %s refused %d", p.cluster, p.pod, p.token, at(p.start), at(p.term), at(p.end), p.refused)
}
