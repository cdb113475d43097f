package redislock

import "time"

// An instant is one moment as three clocks tell it. Go's monotonic clock stands
// still while a machine sleeps, the boot clock does not, and the wall clock can be
// set; a lease is over as soon as any of them says so.
type instant struct {
	t    time.Time     // monotonic
	wall time.Duration // since 1970
	boot time.Duration // since boot, or since some other fixed moment
}

// since returns the largest time that any clock saw pass between from and i.
func (i instant) since(from instant) time.Duration {
	return max(i.t.Sub(from.t), i.wall-from.wall, i.boot-from.boot)
}

// clock is where time comes from, so that tests can bend it.
type clock interface {
	now() instant
	// timer returns a channel that fires once after d, and a function that stops it.
	timer(d time.Duration) (<-chan time.Time, func())
}

type systemClock struct{}

func (systemClock) now() instant {
	t := time.Now()
	wall := time.Duration(t.UnixNano())
	if bubbled(t) {
		return instant{t: t, wall: wall, boot: wall}
	}
	return instant{t: t, wall: wall, boot: bootTime()}
}

// bubbled says whether t was told inside a testing/synctest bubble, where time
// stands still until everybody waits for it: the machine's own clocks go on. Only
// there time.Now has no monotonic reading, which Round removes.
func bubbled(t time.Time) bool {
	return t == t.Round(0) //nolint:staticcheck // Equal would not see the monotonic reading
}

func (systemClock) timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// validity is the span in which a holder may act: it is counted from before the
// command that granted or renewed the lease was sent.
type validity struct {
	from instant
	span time.Duration
}

func (v validity) remaining(now instant) time.Duration {
	return v.span - now.since(v.from)
}

// validitySpan is what of an expiry a holder may use: 1 % and 2 ms are kept back
// for clocks that run at different speeds (the Redlock article's CLOCK_DRIFT).
func validitySpan(d time.Duration) time.Duration {
	return d - d/100 - 2*time.Millisecond
}
