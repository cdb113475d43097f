package guard

import (
	"strconv"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestLatestTick(t *testing.T) {
	t.Parallel()
	utc := func(s string) time.Time {
		at, err := time.Parse("2006-01-02 15:04:05", s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for title, test := range map[string]struct {
		schedule, zone, now, want string
	}{
		"each minute":                            {"* * * * *", "Etc/UTC", "2026-03-01 12:00:30", "2026-03-01 12:00:00"},
		"at the very second":                     {"* * * * *", "Etc/UTC", "2026-03-01 12:00:00", "2026-03-01 12:00:00"},
		"a second before":                        {"0 12 * * *", "Etc/UTC", "2026-03-01 11:59:59", "2026-02-28 12:00:00"},
		"a word":                                 {"@hourly", "Etc/UTC", "2026-03-01 12:34:56", "2026-03-01 12:00:00"},
		"a week":                                 {"@weekly", "Etc/UTC", "2026-03-04 00:00:00", "2026-03-01 00:00:00"},
		"a year":                                 {"@yearly", "Etc/UTC", "2026-03-01 12:00:00", "2026-01-01 00:00:00"},
		"a leap day":                             {"0 0 29 2 *", "Etc/UTC", "2027-12-31 00:00:00", "2024-02-29 00:00:00"},
		"a day that never comes":                 {"0 0 30 2 *", "Etc/UTC", "2026-03-01 12:00:00", ""},
		"in its time zone":                       {"0 3 * * *", "Europe/Berlin", "2026-01-15 02:30:00", "2026-01-15 02:00:00"},
		"in summer":                              {"0 3 * * *", "Europe/Berlin", "2026-07-15 02:30:00", "2026-07-15 01:00:00"},
		"an hour that is skipped in spring":      {"30 2 * * *", "Europe/Berlin", "2026-03-29 12:00:00", "2026-03-28 01:30:00"},
		"the day after":                          {"30 2 * * *", "Europe/Berlin", "2026-03-30 12:00:00", "2026-03-30 00:30:00"},
		"an hour that comes twice, first":        {"30 2 * * *", "Europe/Berlin", "2026-10-25 00:45:00", "2026-10-25 00:30:00"},
		"an hour that comes twice, second":       {"30 2 * * *", "Europe/Berlin", "2026-10-25 12:00:00", "2026-10-25 01:30:00"},
		"a zone that is half an hour off":        {"0 0 * * *", "Asia/Kolkata", "2026-03-01 12:00:00", "2026-02-28 18:30:00"},
		"without a time zone":                    {"* * * * *", "", "2026-03-01 12:00:00", ""},
		"a time zone in the schedule":            {"TZ=Etc/UTC * * * * *", "Etc/UTC", "2026-03-01 12:00:00", ""},
		"another way to write it":                {"CRON_TZ=Etc/UTC * * * * *", "Etc/UTC", "2026-03-01 12:00:00", ""},
		"a time zone that is not known here":     {"* * * * *", "Mars/Olympus", "2026-03-01 12:00:00", ""},
		"no schedule":                            {"whenever", "Etc/UTC", "2026-03-01 12:00:00", ""},
		"an empty schedule":                      {"", "Etc/UTC", "2026-03-01 12:00:00", ""},
		"a schedule with seconds, which is none": {"0 * * * * *", "Etc/UTC", "2026-03-01 12:00:00", ""},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			c := newCronJob("report", func(c *batchv1.CronJob) {
				c.Spec.Schedule, c.Spec.TimeZone, c.CreationTimestamp = test.schedule, nil, metav1.NewTime(utc("2010-01-01 00:00:00"))
				if test.zone != "" {
					c.Spec.TimeZone = &test.zone
				}
			})
			got := LatestTick(c, utc(test.now))
			if test.want == "" {
				NewWithT(t).Expect(got).To(BeZero())
				return
			}
			NewWithT(t).Expect(got).To(BeTemporally("==", utc(test.want)))
		})
	}
	t.Run("before the CronJob existed", func(t *testing.T) {
		t.Parallel()
		c := newCronJob("report", func(c *batchv1.CronJob) { c.CreationTimestamp = metav1.NewTime(tick) })
		g := NewWithT(t)
		g.Expect(LatestTick(c, tick.Add(59*time.Second))).To(BeZero(), "not that of its creation either")
		g.Expect(LatestTick(c, tick.Add(time.Minute))).To(BeTemporally("==", tick.Add(time.Minute)))
	})
}

// FuzzLatestTick: whatever the schedule, the answer is one of its times, none lies
// between it and now, and it is found in time.
func FuzzLatestTick(f *testing.F) {
	for _, schedule := range []string{"* * * * *", "*/7 3 * * 1-5", "0 0 29 2 *", "@yearly", "0 0 30 2 *", "@every 1s", "CRON_TZ=UTC * * * * *", "59 23 31 12 0"} {
		f.Add(schedule, "Europe/Berlin", int64(1767225600), int64(3e8))
	}
	f.Fuzz(func(t *testing.T, schedule, zone string, unix, age int64) {
		if unix < 0 || unix > 4e9 || age < 0 || age > 1e9 {
			return // no such input is meant
		}
		at := time.Unix(unix, 0).UTC()
		c := newCronJob("report", func(c *batchv1.CronJob) {
			c.Spec.Schedule, c.Spec.TimeZone, c.CreationTimestamp = schedule, &zone, metav1.NewTime(at.Add(-time.Duration(age)*time.Second))
		})
		latest := LatestTick(c, at)
		if latest.IsZero() {
			return
		}
		if latest.After(at) || !latest.After(c.CreationTimestamp.Time) {
			t.Errorf("%q in %q at %s: %s is not between the CronJob's creation %s and now", schedule, zone, at, latest, c.CreationTimestamp)
		}
		if again := LatestTick(c, latest); !again.Equal(latest) {
			t.Errorf("%q in %q: at its latest tick %s it has %s", schedule, zone, latest, again)
		}
		if latest.Nanosecond() != 0 || latest.Second() != 0 {
			t.Errorf("%q in %q: %s is within a minute", schedule, zone, latest)
		}
	})
}
