// Package redislocktest is for tests of programs that lock with package redislock:
// a Redis inside the test, which runs the very scripts that a real one runs, and
// has bad days when the test says so.
//
//	server := redislocktest.New(t)
//	client := server.Client() // or redislock.New(server.Redis()), as your program does
//	lock, err := client.Acquire(t.Context(), "lock:report")
//	...
//	server.Down() // no answer from here on: what does the program do when the lease ends?
//	<-lock.Context().Done()
//
// # Time
//
// Keys expire in real time. In a bubble of testing/synctest they expire in the
// bubble's time instead, and so does all else: leases end, renewals go out, waiters
// try again, and the timeouts of the tested program fire, all in order and without
// waiting. An hour of renewals takes milliseconds, and a test of what happens when a
// lease is lost has no sleep that is too short on a busy machine:
//
//	synctest.Test(t, func(t *testing.T) {
//		server := redislocktest.New(t)
//		lock, err := server.Client().Acquire(t.Context(), "lock:report")
//		...
//		time.Sleep(time.Hour) // renewed all along
//		server.Down()
//		time.Sleep(redislock.DefaultLease)
//		synctest.Wait()
//		if !errors.Is(context.Cause(lock.Context()), redislock.ErrLost) { ... }
//	})
//
// The server, its connections and the clients must be made inside the bubble, and
// end in it: what Server.Redis and Server.Client return is closed with the test; a
// redislock.Client of your own has to be closed by your code.
//
// # Stores
//
// Conformance says whether a store that claims to be Redis (another server, a
// managed service, a proxy, a fake) does what locks need of it.
package redislocktest
