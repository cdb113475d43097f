// Command manager is the redislock operator.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap/zapcore"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubeconfigs of cloud providers
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
	"github.com/redislock-operator/redislock-operator/controllers"
	"github.com/redislock-operator/redislock-operator/internal/callapi"
	"github.com/redislock-operator/redislock-operator/internal/campaign"
	"github.com/redislock-operator/redislock-operator/internal/config"
	"github.com/redislock-operator/redislock-operator/internal/debounce"
	"github.com/redislock-operator/redislock-operator/internal/devstore"
	"github.com/redislock-operator/redislock-operator/internal/leader"
	"github.com/redislock-operator/redislock-operator/internal/policies"
	"github.com/redislock-operator/redislock-operator/internal/stores"
)

// version is set by the linker.
var version = "devel"

// leaveTimeout bounds how long a process that ends tries to leave its leases to its
// successor. One that it could not leave is gone on with all the same, with a lease
// of quiet.
const leaveTimeout = 10 * time.Second

type options struct {
	configFile      string
	clusterName     string
	stores          []string
	watchNamespaces string
	dev             bool
	leaderElect     bool
	leaderNamespace string
	metricsAddress  string
	metricsSecure   bool
	metricsCertDir  string
	calls           callapi.Options
	healthAddress   string
	printVersion    bool
	logging         zap.Options
}

func (o *options) bind(fs *flag.FlagSet) {
	fs.StringVar(&o.configFile, "config", "", "The configuration file: stores, cluster name, key policy, watched namespaces.")
	fs.StringVar(&o.clusterName, "cluster-name", "", "This cluster's name for people and for spec.paused; overrides the file and "+config.ClusterNameVariable+".")
	fs.Func("store", "A store as name=url, without a password; may be repeated, and overrides the file and REDISLOCK_STORE_<NAME>_URL.", func(s string) error {
		o.stores = append(o.stores, s)
		return nil
	})
	fs.StringVar(&o.watchNamespaces, "watch-namespaces", "", "Namespaces to watch, separated by commas; overrides the file. Empty: all.")
	fs.BoolVar(&o.dev, "dev", false, "For a trial: where no store is configured, keep locks in an in-process Redis that no other cluster shares and that forgets them when it ends.")
	fs.BoolVar(&o.leaderElect, "leader-elect", true, "Elect one of several managers of this cluster. Turn it off only where there is never more than one.")
	fs.StringVar(&o.leaderNamespace, "leader-election-namespace", "", "The namespace of the election's Lease. Default: the manager's own, or redislock-system outside of a cluster.")
	fs.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "Where metrics are served; 0 switches them off.")
	fs.BoolVar(&o.metricsSecure, "metrics-secure", true, "Serve metrics by HTTPS, to those who may get /metrics.")
	fs.StringVar(&o.metricsCertDir, "metrics-cert-dir", "", "A folder with tls.crt and tls.key for metrics. Default: a certificate signed by itself.")
	o.calls.Bind(fs)
	fs.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "Where /healthz and /readyz are served; 0 switches them off.")
	fs.BoolVar(&o.printVersion, "version", false, "Print the version and exit.")
	o.logging.BindFlags(fs)
}

func main() {
	// An error says what is wrong and where; the stack says nothing to its reader.
	o := options{logging: zap.Options{StacktraceLevel: zapcore.DPanicLevel}}
	o.bind(flag.CommandLine)
	flag.Parse()
	if o.printVersion {
		fmt.Println(version)
		return
	}
	log := zap.New(zap.UseFlagOptions(&o.logging))
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	redis.SetLogger(redisLogger{log.WithName("redis")})
	if err := run(ctrl.LoggerInto(ctrl.SetupSignalHandler(), log), o); err != nil {
		log.Error(err, "The manager ended")
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	log := ctrl.LoggerFrom(ctx)
	cfg, err := o.load()
	if err != nil {
		return err
	}
	if len(cfg.Stores) == 0 {
		if !o.dev {
			return errors.New("no store is configured: list one in the configuration file (--config), or give --store default=redis://host:6379/0, " +
				"or set REDISLOCK_STORE_DEFAULT_URL, or try things out with --dev")
		}
		address, err := devstore.Start(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		log.Info("FOR TRIAL ONLY: locks are kept inside this process. No other cluster shares them, and they are gone when it ends", "store", v1alpha1.DefaultStore)
		cfg.SetStore(config.Store{Name: v1alpha1.DefaultStore, URL: address})
	}

	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the cluster: %w", err)
	}
	election, err := leader.New(restConfig, o.leaderNamespace)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(restConfig, manager.Options{
		Scheme:                              newScheme(),
		Logger:                              log,
		Cache:                               cacheOptions(cfg, election.Namespace()),
		Metrics:                             o.metrics(),
		HealthProbeBindAddress:              o.healthAddress,
		LeaderElection:                      o.leaderElect,
		LeaderElectionID:                    leader.Name,
		LeaderElectionResourceLockInterface: election.Lock,
		LeaderElectionReleaseOnCancel:       true,
		LeaseDuration:                       new(leader.LeaseDuration),
		RenewDeadline:                       new(leader.RenewDeadline),
		RetryPeriod:                         new(leader.RetryPeriod),
	})
	if err != nil {
		return fmt.Errorf("setting up the manager: %w", err)
	}
	uid, err := clusterUID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	if cfg.ClusterName == "" || cfg.ClusterName == config.Unnamed {
		cfg.ClusterName = "cluster-" + uid[:8]
		log.Info("This cluster has no name: set one, for people and for spec.paused", "using", cfg.ClusterName)
	}

	list := stores.New(cfg)
	leads, sure := election.Leads, election.Sure
	if !o.leaderElect {
		leads = func(context.Context) (bool, error) { return true, nil }
		sure = func() bool { return true }
	}
	campaigns := campaign.NewRegistry(leads, log.WithName("campaign"))
	runners := debounce.NewRunners(log.WithName("debounce"))
	// Leases are left behind before the manager's own is given up, so that the next
	// leader finds them stopped.
	leave := func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		if err := errors.Join(runners.Leave(bounded), campaigns.Leave(bounded)); err != nil {
			log.Error(err, "Leaving leases to the next leader")
		}
	}
	defer list.Close(ctx)
	defer leave()
	checker := policies.New(mgr.GetClient(), election.Namespace(), log.WithName("policies"))
	reconciler := &controllers.RedisLockReconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("redislock-operator"),
		Config: cfg, Stores: list, Campaigns: campaigns, Leads: sure, ClusterUID: uid, Namespace: election.Namespace(), Unguarded: checker.Recheck,
	}
	contents, configMaps, err := debounce.NewContents(restConfig, mgr.GetScheme(), cfg.WatchNamespaces)
	if err != nil {
		return fmt.Errorf("setting up the manager: %w", err)
	}
	live, err := client.NewWithWatch(restConfig, client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("setting up the manager: %w", err)
	}
	debounces := &controllers.DebounceReconciler{
		Client: mgr.GetClient(), Live: live, Recorder: mgr.GetEventRecorder("redislock-operator"),
		Config: cfg, Stores: list, Runners: runners, Contents: contents, Leads: sure, ClusterUID: uid,
	}
	for _, err := range []error{
		reconciler.SetupWithManager(mgr),
		debounces.SetupWithManager(mgr),
		mgr.Add(configMaps),
		callapi.AddToManager(mgr, &controllers.DebounceCaller{Reader: mgr.GetClient(), Config: cfg, Stores: list, ClusterUID: uid}, o.calls),
		mgr.Add(list),
		mgr.Add(checker),
		mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
			<-ctx.Done()
			leave()
			return nil
		})),
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("cache", cacheSynced(mgr.GetCache())),
		mgr.AddReadyzCheck("policies", checker.ReadyzCheck),
	} {
		if err != nil {
			return fmt.Errorf("setting up the manager: %w", err)
		}
	}
	log.Info("Starting", "version", version, "cluster", cfg.ClusterName, "uid", uid, "stores", list.Names())
	return mgr.Start(ctx)
}

// load reads the file, the environment and the flags, the later over the former.
func (o *options) load() (config.Config, error) {
	cfg, err := config.Load(o.configFile, os.Environ())
	if err != nil {
		return cfg, err
	}
	if o.clusterName != "" {
		cfg.ClusterName = o.clusterName
	}
	for _, store := range o.stores {
		if err := cfg.SetStoreFlag(store); err != nil {
			return cfg, err
		}
	}
	if o.watchNamespaces != "" {
		cfg.WatchNamespaces = strings.Split(o.watchNamespaces, ",")
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("the configuration is wrong:\n%w", err)
	}
	return cfg, nil
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// cacheOptions keeps in memory what the controllers read: of Jobs those that are
// guarded, of ConfigMaps the one that drains the cluster.
func cacheOptions(cfg config.Config, namespace string) cache.Options {
	guarded, err := labels.NewRequirement(v1alpha1.LockLabel, selection.Exists, nil)
	utilruntime.Must(err)
	o := cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&batchv1.Job{}: {Label: labels.NewSelector().Add(*guarded)},
			&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{
				namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", controllers.DrainConfigMap)},
			}},
		},
	}
	for _, namespace := range cfg.WatchNamespaces {
		if o.DefaultNamespaces == nil {
			o.DefaultNamespaces = map[string]cache.Config{}
		}
		o.DefaultNamespaces[namespace] = cache.Config{}
	}
	return o
}

func (o *options) metrics() metricsserver.Options {
	m := metricsserver.Options{BindAddress: o.metricsAddress, SecureServing: o.metricsSecure, CertDir: o.metricsCertDir}
	if o.metricsSecure {
		m.FilterProvider = filters.WithAuthenticationAndAuthorization
		m.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }}
	}
	return m
}

// clusterUID is the UID of kube-system, which is what a cluster is known by. It
// waits for an API server that is not there yet.
func clusterUID(ctx context.Context, reader client.Reader) (string, error) {
	for {
		namespace := &corev1.Namespace{}
		err := reader.Get(ctx, client.ObjectKey{Name: "kube-system"}, namespace)
		if err == nil {
			return string(namespace.UID), nil
		}
		ctrl.LoggerFrom(ctx).Info("Waiting for the API server, to learn this cluster's identity", "error", err.Error())
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func cacheSynced(c cache.Cache) healthz.Checker {
	return func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), time.Second)
		defer cancel()
		if !c.WaitForCacheSync(ctx) {
			return errors.New("the API server has not been read yet")
		}
		return nil
	}
}

// redisLogger takes in what go-redis logs about single connections: too much for
// every day, for conditions and metrics say when a store does not answer.
type redisLogger struct{ log logr.Logger }

func (l redisLogger) Printf(_ context.Context, format string, args ...any) {
	l.log.V(1).Info(fmt.Sprintf(format, args...))
}
