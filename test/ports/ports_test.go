package ports_test

import (
	"net"
	"sync"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/redislock-operator/redislock-operator/test/ports"
)

func TestReservedPortsDifferAndCanBeBound(t *testing.T) {
	g := NewWithT(t)
	const n = 100
	var (
		mu   sync.Mutex
		seen = map[int]bool{}
		wg   sync.WaitGroup
	)
	for range n {
		wg.Go(func() {
			p, err := ports.Reserve()
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(p.Release)
			l, err := net.Listen("tcp", p.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			_ = l.Close()
			mu.Lock()
			defer mu.Unlock()
			seen[p.Number()] = true
		})
	}
	wg.Wait()
	g.Expect(seen).To(HaveLen(n))
}

func TestReleaseTwice(t *testing.T) {
	g := NewWithT(t)
	p, err := ports.Reserve()
	g.Expect(err).NotTo(HaveOccurred())
	p.Release()
	p.Release()
}
