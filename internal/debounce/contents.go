package debounce

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// syncTimeout bounds how long it is waited for the first list of ConfigMaps.
const syncTimeout = 10 * time.Second

// Content is a ConfigMap without its content, but with a hash of it.
type Content struct {
	Name   string
	Labels map[string]string
	Hash   string
}

// Contents watches ConfigMaps, from the first time that somebody asks, and keeps a hash
// of each.
type Contents struct {
	cache cache.Cache

	mu       sync.Mutex
	onChange func(namespace string)
	watching bool
}

// NewContents prepares a cache, which the caller has to start. namespaces bound it;
// none: all.
func NewContents(cfg *rest.Config, scheme *runtime.Scheme, namespaces []string) (*Contents, cache.Cache, error) {
	o := cache.Options{Scheme: scheme, DefaultTransform: condense}
	for _, namespace := range namespaces {
		if o.DefaultNamespaces == nil {
			o.DefaultNamespaces = map[string]cache.Config{}
		}
		o.DefaultNamespaces[namespace] = cache.Config{}
	}
	all, err := cache.New(cfg, o)
	if err != nil {
		return nil, nil, err
	}
	return &Contents{cache: all, onChange: func(string) {}}, all, nil
}

// OnChange has f called when a ConfigMap of a namespace may have changed. It must not
// block.
func (c *Contents) OnChange(f func(namespace string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onChange = f
}

func (c *Contents) changed(o any) {
	if tombstone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = tombstone.Obj
	}
	if m, ok := o.(*corev1.ConfigMap); ok {
		c.mu.Lock()
		f := c.onChange
		c.mu.Unlock()
		f(m.Namespace)
	}
}

// In returns the ConfigMaps of a namespace.
func (c *Contents) In(ctx context.Context, namespace string) ([]Content, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	var list corev1.ConfigMapList
	if err := c.cache.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	contents := make([]Content, 0, len(list.Items))
	for i := range list.Items {
		m := &list.Items[i]
		contents = append(contents, Content{Name: m.Name, Labels: m.Labels, Hash: m.Annotations[hashAnnotation]})
	}
	return contents, nil
}

// watch begins to, once.
func (c *Contents) watch(ctx context.Context) error {
	c.mu.Lock()
	watching := c.watching
	c.mu.Unlock()
	if watching {
		return nil
	}
	informer, err := c.cache.GetInformer(ctx, &corev1.ConfigMap{})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching {
		return nil
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: c.changed, DeleteFunc: c.changed,
		UpdateFunc: func(before, after any) {
			b, a := before.(*corev1.ConfigMap), after.(*corev1.ConfigMap)
			if b.Annotations[hashAnnotation] != a.Annotations[hashAnnotation] || !maps.Equal(b.Labels, a.Labels) {
				c.changed(after)
			}
		},
	})
	c.watching = err == nil
	return err
}

// hashAnnotation has the hash, in the cache alone.
const hashAnnotation = "redislock.io/content-hash"

// condense keeps of a ConfigMap what is needed, for there may be many large ones. It may
// get what it made, which has no time of creation.
func condense(o any) (any, error) {
	m, ok := o.(*corev1.ConfigMap)
	if !ok || m.CreationTimestamp.IsZero() {
		return o, nil
	}
	return &corev1.ConfigMap{
		TypeMeta: m.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels,
			Annotations: map[string]string{hashAnnotation: Hash(m)},
		},
	}, nil
}

// Hash is of what a ConfigMap contains.
func Hash(m *corev1.ConfigMap) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(m.Data)) {
		field(h, key)
		field(h, m.Data[key])
	}
	field(h, "")
	for _, key := range slices.Sorted(maps.Keys(m.BinaryData)) {
		field(h, key)
		field(h, string(m.BinaryData[key]))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// field keeps what stands side by side apart.
func field(h hash.Hash, text string) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(text)))
	h.Write(length[:])
	h.Write([]byte(text))
}
