// Package chaos runs the operator in several clusters under one Redis, breaks things
// at random, and judges afterwards, from the clusters' and Redis' own history, whether
// the guard kept what it promises: each tick runs one at a time over all clusters,
// never after a recorded completion, and is not lost (or not repeated, by choice).
//
//	report, err := chaos.Execute(ctx, chaos.Config{Clusters: 2, Duration: 90 * time.Second, Log: os.Stdout})
//	fmt.Print(report)
//
// The parts: an Estate is what runs (clusters, Redis, managers); a Plan, drawn from a
// seed, is what is done to it; the History is what was seen; Judge says what of it must
// not be. docs/chaos.md has it for readers.
package chaos
