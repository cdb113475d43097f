// Command chaos breaks things for long, and judges; see docs/chaos.md.
//
//	chaos           a long run
//	chaos proof     that the judge finds what is wrong when a safeguard is left out
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redislock-operator/redislock-operator/test/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := long
	if len(os.Args) > 1 && os.Args[1] == "proof" {
		do = proof
	}
	if err := do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		stop()
		os.Exit(1)
	}
}

// configure takes what the environment says over what is usual.
func configure(cfg chaos.Config) (chaos.Config, error) {
	var err error
	read := func(name string, set func(string) error) {
		if value := os.Getenv(name); value != "" && err == nil {
			if e := set(value); e != nil {
				err = fmt.Errorf("%s: %w", name, e)
			}
		}
	}
	read("CHAOS_SEED", func(v string) (e error) { cfg.Seed, e = strconv.ParseUint(v, 10, 64); return })
	read("CHAOS_DURATION", func(v string) (e error) {
		cfg.Duration, e = time.ParseDuration(v)
		cfg.Ticks = 0 // whoever says how long means it
		return e
	})
	read("CHAOS_CLUSTERS", func(v string) (e error) { cfg.Clusters, e = strconv.Atoi(v); return })
	read("CHAOS_CRONJOBS", func(v string) (e error) { cfg.CronJobs, e = strconv.Atoi(v); return })
	read("CHAOS_WITHOUT", func(v string) error { cfg.Without = v; return nil })
	read("CHAOS_DIR", func(v string) error { cfg.Dir = v; return nil })
	cfg.Log = os.Stdout
	return cfg, err
}

func long(ctx context.Context) error {
	cfg, err := configure(chaos.Config{Clusters: 3, CronJobs: 24, Ticks: 21, Duration: 21 * time.Minute, Settle: 3 * time.Minute})
	if err != nil {
		return err
	}
	report, err := chaos.Execute(ctx, cfg)
	if report != nil {
		fmt.Print(report)
	}
	if err != nil {
		return err
	}
	return report.Err()
}

// proof leaves one safeguard out after the other, and wants the judge to say so.
func proof(ctx context.Context) error {
	runs := []struct {
		without string
		prelude chaos.Prelude
		want    []chaos.Rule
	}{
		{"fence", chaos.Peace, []chaos.Rule{chaos.StaleWrite}},
		{"claims", chaos.Takeovers, []chaos.Rule{chaos.RunAfterDone, chaos.TickOverlap, chaos.StartedTwice}},
		{"watchdog", chaos.Takeovers, []chaos.Rule{chaos.TickOverlap, chaos.LockOverlap, chaos.LeaderOverlap}},
		{"", chaos.Takeovers, nil},
	}
	var results []string
	failed := false
	for _, run := range runs {
		cfg, err := configure(chaos.Config{Clusters: 2, CronJobs: 8, Ticks: 2, Prelude: run.prelude, Duration: 70 * time.Second, Settle: 90 * time.Second})
		if err != nil {
			return err
		}
		if only := os.Getenv("CHAOS_WITHOUT"); only != "" && only != cmp.Or(run.without, "none") {
			continue
		}
		cfg.Without = run.without
		if run.prelude == chaos.Takeovers {
			cfg.Duration *= 2
		}
		if cfg.Dir != "" {
			cfg.Dir = filepath.Join(cfg.Dir, "without-"+run.without)
		}
		if run.without != "" {
			cfg.Settle = 10 * time.Second // much of it never comes in order
		}
		report, err := chaos.Execute(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Print(report)
		name, ok := "all safeguards", report.Err() == nil
		if run.without != "" {
			name, ok = "without "+run.without, report.Verdict.Has(run.want...)
		}
		failed = failed || !ok
		results = append(results, fmt.Sprintf("%-18s %3d violations: %s", name, len(report.Verdict.Violations), map[bool]string{true: "as it must be", false: "NOT as it must be"}[ok]))
	}
	fmt.Println("\n" + strings.Join(results, "\n"))
	if failed {
		return fmt.Errorf("the judge does not tell a guard with its safeguards from one without")
	}
	return nil
}
