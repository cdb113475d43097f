package leaderelection_test

import (
	"context"
	"log"

	"github.com/redis/go-redis/v9"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/redislock-operator/redislock-operator/pkg/redislock"
	"github.com/redislock-operator/redislock-operator/pkg/redislock/leaderelection"
)

// reconcile stands for what only the leader may do. It returns when ctx ends.
func reconcile(ctx context.Context, fence uint64) error { return nil }

// Managers in several clusters, one of which is active.
func Example() {
	rdb := redis.NewClient(&redis.Options{Addr: "redis.infra:6379", ContextTimeoutEnabled: true})
	ctx, stop := context.WithCancel(ctrl.SetupSignalHandler())
	defer stop()
	lock, err := leaderelection.New(rdb, redislock.Key("leader", "payments"),
		leaderelection.OnLost(func(err error) {
			log.Print(err)
			stop() // at once, not only after RenewDeadline
		}))
	if err != nil {
		log.Fatal(err)
	}
	mgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		LeaderElection:                      true,
		LeaderElectionResourceLockInterface: lock,
		LeaderElectionReleaseOnCancel:       true,
	})
	if err != nil {
		log.Fatal(err)
	}
	err = mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		return reconcile(ctx, lock.Fence()) // it begins when this manager leads
	}))
	if err != nil {
		log.Fatal(err)
	}
	if err := mgr.Start(ctx); err != nil {
		log.Fatal(err)
	}
}
