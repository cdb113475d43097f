package callapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Server serves calls. It is a Runnable of every replica.
type Server struct {
	options Options
	limits  limits
	handler http.Handler
	log     logr.Logger
	address atomic.Pointer[string]
}

// AddToManager has a manager serve calls, and not be ready before it does. It does
// nothing where the options say so.
func AddToManager(mgr manager.Manager, caller Caller, o Options) error {
	if !o.Enabled() {
		return nil
	}
	server, err := New(mgr.GetConfig(), caller, o, mgr.GetLogger().WithName("calls"))
	if err != nil {
		return err
	}
	if err := mgr.Add(server); err != nil {
		return err
	}
	return mgr.AddReadyzCheck("calls", server.Ready)
}

// New makes a server that asks the API server of cfg about callers.
func New(cfg *rest.Config, caller Caller, o Options, log logr.Logger) (*Server, error) {
	return newServer(cfg, caller, o, defaultLimits, clock.RealClock{}, log)
}

func newServer(cfg *rest.Config, caller Caller, o Options, l limits, clock clock.PassiveClock, log logr.Logger) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	reviewer, err := newAPIServer(cfg, o.Audience)
	if err != nil {
		return nil, fmt.Errorf("setting up the review of callers: %w", err)
	}
	return &Server{options: o, limits: l, log: log, handler: newHandler(caller, reviewer, o, l, clock, log)}, nil
}

// NeedLeaderElection says that each replica serves calls.
func (s *Server) NeedLeaderElection() bool { return false }

// Address is where calls are served, empty before they are.
func (s *Server) Address() string {
	if a := s.address.Load(); a != nil {
		return *a
	}
	return ""
}

// Ready is a check for the manager.
func (s *Server) Ready(*http.Request) error {
	if s.Address() == "" {
		return errors.New("calls are not served yet")
	}
	return nil
}

// Start serves until the context ends, and then finishes what was begun.
func (s *Server) Start(ctx context.Context) error {
	// Of the certificate's watcher, which is to end with the server.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config, err := s.tlsConfig(ctx)
	if err != nil {
		return fmt.Errorf("serving calls: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.options.BindAddress)
	if err != nil {
		return fmt.Errorf("serving calls: %w", err)
	}
	server := s.httpServer(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(tls.NewListener(newGate(listener, s.limits.connections, s.limits.connectionsOfOne), config))
	}()
	s.address.Store(new(listener.Addr().String()))
	s.log.Info("Serving calls of Debounces", "address", s.Address(), "audience", s.options.Audience)

	select {
	case err := <-ended:
		return fmt.Errorf("serving calls: %w", err)
	case <-ctx.Done():
	}
	return s.finish(context.WithoutCancel(ctx), server)
}

// finish waits for requests that are being served. Shutdown is called over and over: it
// tells connections of HTTP/2 to end, but not those whose handshake comes after.
func (s *Server) finish(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, s.limits.shutdown)
	defer cancel()
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, time.Second)
		err := server.Shutdown(once)
		cancel()
		if err == nil {
			return nil
		}
	}
	s.log.Info("Calls that took too long were cut off")
	return server.Close()
}

func (s *Server) httpServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.limits.readHeader,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streams,
			MaxReceiveBufferPerConnection: window,
			MaxReceiveBufferPerStream:     window,
			WriteByteTimeout:              s.limits.read,
		},
		// "OPTIONS *" is refused like all else that is no call.
		DisableGeneralOptionsHandler: true,
		// What was begun is finished when the manager ends.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:    stdlog.New(debugLog{s.log}, "", 0),
	}
}

func (s *Server) tlsConfig(ctx context.Context) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if s.options.CertDir == "" {
		s.log.Info("Calls are served with a certificate signed by itself, which callers cannot verify. Give --call-cert-dir")
		cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{{127, 0, 0, 1}}, nil)
		if err != nil {
			return nil, fmt.Errorf("making a certificate: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("making a certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
		return config, nil
	}
	watcher, err := certwatcher.New(filepath.Join(s.options.CertDir, "tls.crt"), filepath.Join(s.options.CertDir, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the certificate in --call-cert-dir: %w", err)
	}
	config.GetCertificate = watcher.GetCertificate
	go func() {
		if err := watcher.Start(ctx); err != nil && ctx.Err() == nil {
			s.log.Error(err, "The certificate for calls is not watched; restart the manager when it changes")
		}
	}()
	return config, nil
}

// debugLog takes what net/http says about single connections: whoever connects could fill
// a log.
type debugLog struct{ log logr.Logger }

func (l debugLog) Write(line []byte) (int, error) {
	l.log.V(1).Info(strings.TrimSpace(string(line)))
	return len(line), nil
}

var _ manager.LeaderElectionRunnable = (*Server)(nil)
