package redislocktest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
)

// taken has a call that must succeed acquire.
func (s *stand) taken(acquire func(context.Context, ...redislock.LockOption) (*redislock.Lock, error), opts ...redislock.LockOption) *redislock.Lock {
	s.Helper()
	l, err := acquire(s.Context(), opts...)
	s.must(err, "acquire what is free")
	return l
}

// refused has a call that must be refused try to acquire.
func (s *stand) refused(acquire func(context.Context, ...redislock.LockOption) (*redislock.Lock, error)) redislock.HeldError {
	s.Helper()
	_, err := acquire(s.Context())
	held, ok := errors.AsType[*redislock.HeldError](err)
	if !ok {
		s.Fatalf("acquire what is held: got %v, want a *HeldError", err)
	}
	return *held
}

func permits(s *stand) {
	semaphore := func(opts ...redislock.LockOption) *redislock.Semaphore {
		sem, err := s.client().Semaphore(s.key, 2, append([]redislock.LockOption{lasting}, opts...)...)
		s.must(err, "make a semaphore")
		return sem
	}
	mine, theirs := semaphore(), semaphore()
	first, second := s.taken(mine.TryAcquire), s.taken(theirs.TryAcquire)
	if second.Fence() <= first.Fence() {
		s.Errorf("fencing token %d after %d", second.Fence(), first.Fence())
	}
	equal(s, s.refused(mine.TryAcquire).Kind, redislock.KindSemaphore, "what is in the way of a third")
	s.held(s.client())
	s.expires(s.key, 5*time.Minute)
	s.must(first.Extend(s.Context(), 20*time.Minute), "extend")
	if ttl := s.expires(s.key, 25*time.Minute); ttl < 15*time.Minute {
		s.Errorf("the key expires in %s, before the permit that was extended", ttl)
	}
	info, err := s.client().Inspect(s.Context(), s.key)
	s.must(err, "inspect")
	equal(s, len(info.Holders), 2, "the holders")
	equal(s, info.Permits, 2, "the permits")

	s.release(first)
	s.expires(s.key, 5*time.Minute)
	s.taken(mine.TryAcquire, redislock.WithLease(shortly), redislock.WithoutRenewal())
	s.eventually("a permit lapses, and only that", func() bool {
		l, err := theirs.TryAcquire(s.Context())
		if err == nil {
			s.release(l)
		}
		return err == nil
	})
	state, err := second.Status(s.Context())
	s.must(err, "ask for a permit's status")
	equal(s, state, redislock.Acquired, "the status of a permit that stands")
	s.release(second)
	s.release(s.acquire(s.client()))
}

func readersAndWriter(s *stand) {
	rw, err := s.client().RWLock(s.key, lasting)
	s.must(err, "make a read-write lock")
	first, second := s.taken(rw.TryRLock), s.taken(rw.TryRLock)
	equal(s, s.refused(rw.TryLock).Kind, redislock.KindReaders, "what is in the way of a writer")

	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	written := make(chan error, 1)
	var writer *redislock.Lock
	go func() {
		l, err := rw.Lock(ctx, redislock.WithWait())
		writer = l
		written <- err
	}()
	s.eventually("a writer has its place", func() bool {
		info, err := s.client().Inspect(s.Context(), s.key)
		s.must(err, "inspect")
		return info.Waiting == 1
	})
	equal(s, s.refused(rw.TryRLock).Ahead, 1, "the writers before a reader")
	s.release(first)
	s.release(second)
	s.must(<-written, "wait for the readers")
	equal(s, s.value(), writer.Token(), "what stands at the key")
	equal(s, s.refused(rw.TryRLock).Kind, redislock.KindLock, "what is in the way of a reader")
	s.release(writer)
	s.release(s.taken(rw.TryRLock))
}

func orderOfArrival(s *stand) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	l := s.acquire(s.client())
	const callers = 3
	arrived := make(chan int, callers)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range callers {
		c := s.client()
		wg.Go(func() {
			l, err := c.Acquire(ctx, s.key, lasting, redislock.WithFair(), redislock.WithWait())
			if err != nil {
				s.Errorf("wait in order of arrival: %v", err)
				arrived <- -1
				return
			}
			arrived <- i
			if err := l.Release(ctx); err != nil {
				s.Errorf("release: %v", err)
			}
		})
		s.eventually("a caller has its place", func() bool {
			info, err := c.Inspect(s.Context(), s.key)
			s.must(err, "inspect")
			return info.Waiting == i+1
		})
	}
	s.release(l)
	for i := range callers {
		equal(s, <-arrived, i, "whose turn it is")
	}
}
