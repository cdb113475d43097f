package debounce

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHashesOfContents(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	type data = map[string]string
	type binary = map[string][]byte
	one := &corev1.ConfigMap{Data: data{"a": "1", "b": "2", "c": "3"}, BinaryData: binary{"d": {0}, "e": {1}}}
	for range 20 {
		g.Expect(Hash(one.DeepCopy())).To(Equal(Hash(one)), "whatever the order of a map")
	}
	named := one.DeepCopy()
	named.ObjectMeta = metav1.ObjectMeta{Name: "x", Labels: data{"a": "b"}, Annotations: data{"c": "d"}, ResourceVersion: "7"}
	g.Expect(Hash(named)).To(Equal(Hash(one)), "metadata is no content")
	g.Expect(Hash(&corev1.ConfigMap{Data: data{}})).To(Equal(Hash(&corev1.ConfigMap{})))

	hashes := map[string]int{}
	different := []*corev1.ConfigMap{
		{},
		{Data: data{"": ""}},
		{Data: data{"a": ""}},
		{Data: data{"": "a"}},
		{Data: data{"a": "b"}},
		{Data: data{"ab": ""}},
		{Data: data{"a": "", "b": ""}},
		{Data: data{"a": "bc", "d": ""}},
		{Data: data{"a": "b", "c": "d"}},
		{Data: data{"a": "b\x00\x00\x00\x00\x00\x00\x00\x01c\x00\x00\x00\x00\x00\x00\x00\x01d"}},
		{BinaryData: binary{"a": []byte("b")}},
		{Data: data{"a": "b"}, BinaryData: binary{"a": []byte("b")}},
		{Data: data{"a": "b", "": "a"}},
	}
	for i, m := range different {
		hash := Hash(m)
		if j, taken := hashes[hash]; taken {
			t.Errorf("%v and %v have the same hash", different[j], m)
		}
		hashes[hash] = i
	}
}

func TestOnlyTheHashIsKept(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", CreationTimestamp: metav1.Now(), Labels: map[string]string{"l": "1"}, Annotations: map[string]string{hashAnnotation: "forged", "large": "x"}},
		Data:       map[string]string{"secret": "s"},
	}
	kept, err := condense(m)
	g.Expect(err).NotTo(HaveOccurred())
	got := kept.(*corev1.ConfigMap)
	g.Expect(got.Data).To(BeNil())
	again, err := condense(got)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again).To(Equal(got), "what is kept stays so")
	g.Expect(got.Labels).To(Equal(m.Labels))
	g.Expect(got.Annotations).To(Equal(map[string]string{hashAnnotation: Hash(m)}))
}
