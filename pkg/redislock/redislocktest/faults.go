package redislocktest

import (
	"slices"
	"strings"

	"github.com/alicebob/miniredis/v2/server"
)

// A fault befalls the next commands about a key.
type fault struct {
	key  string // "": whatever they are about
	left int
	// carriedOut: the command is, but its answer is lost; otherwise message is the
	// answer, and nothing is done.
	carriedOut bool
	message    string
}

// Down cuts all connections and refuses new ones, as a server that was killed or a
// network that is gone. What is stored stays, and ages.
func (s *Server) Down() {
	s.mu.Lock()
	front, cut := s.front, s.cut
	s.front = nil
	s.mu.Unlock()
	if front == nil {
		return
	}
	close(cut)
	front.Close()
}

// Up ends Down.
func (s *Server) Up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.front != nil {
		return
	}
	s.front, s.cut = server.NewServerConn(), make(chan struct{})
	s.front.SetPreHook(s.handle(s.cut))
}

// Hang keeps connections open and takes new ones, but answers nothing until Resume,
// as a server that is stopped or a network that holds packets back. What was sent
// meanwhile is carried out then, late, though its sender may have given up.
func (s *Server) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = make(chan struct{})
	}
}

// Resume ends Hang.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers != nil {
		close(s.answers)
		s.answers = nil
	}
}

// awaitAnswers returns when commands are answered; false where the connection was
// cut before.
func (s *Server) awaitAnswers(cut <-chan struct{}) bool {
	for {
		s.mu.Lock()
		answers := s.answers
		s.mu.Unlock()
		if answers == nil {
			return true
		}
		select {
		case <-answers:
		case <-cut:
			return false
		}
	}
}

// FailNext has the next n commands about a key answered with an error of Redis, such
// as "LOADING Redis is loading the dataset in memory", without being carried out.
// Every operation on a lock is a command about its key. An empty key means any but
// those with which a connection begins.
func (s *Server) FailNext(key string, n int, message string) {
	s.add(&fault{key: key, left: n, message: message})
}

// LoseReplies has the next n commands about a key carried out and their answers
// lost, with the connection: the sender cannot know. Mind that go-redis then sends
// a command again by itself, three times by default (redis.Options.MaxRetries).
func (s *Server) LoseReplies(key string, n int) {
	s.add(&fault{key: key, left: n, carriedOut: true})
}

func (s *Server) add(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// takeFault returns what befalls a command; nil where nothing does. Of several
// faults the oldest comes first.
func (s *Server) takeFault(command []string) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if f.left <= 0 || !f.befalls(command) {
			continue
		}
		if f.left--; f.left == 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return f
	}
	return nil
}

func (f *fault) befalls(command []string) bool {
	if f.key != "" {
		return slices.Contains(command[1:], f.key)
	}
	switch strings.ToUpper(command[0]) {
	case "HELLO", "AUTH", "SELECT", "CLIENT":
		return false
	}
	return true
}

// FlushAll loses all data, as a restart without persistence does. Holders find out
// when they renew; who remembers a fencing token waits out a quarantine.
func (s *Server) FlushAll() { s.inner.FlushAll() }
