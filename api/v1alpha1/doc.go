// Package v1alpha1 is the first version of the API group redislock.io: locks
// and debounces in Redis that several clusters share, declared as Kubernetes objects.
//
// A RedisLock names a key. The operator of each cluster that has the object
// competes for it, and shows in the status whether this cluster holds it:
//
//	apiVersion: redislock.io/v1alpha1
//	kind: RedisLock
//	metadata:
//	  name: nightly-billing
//	  namespace: billing
//	spec:
//	  lease: 30s
//
// A Debounce names an action, and runs it once for many calls:
//
//	apiVersion: redislock.io/v1alpha1
//	kind: Debounce
//	metadata:
//	  name: purge-cache
//	  namespace: shop
//	spec:
//	  wait: 5s
//	  action:
//	    http: {url: "https://cache.example.com/purge"}
//
// The same object goes into every cluster; nothing in its spec is about one
// cluster alone. What the schema can check it checks, so an object that was
// stored can be used: durations parse, the key fits a Redis Cluster slot, and
// what identifies the lock or debounce (key and store) cannot change.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +groupName=redislock.io
package v1alpha1
