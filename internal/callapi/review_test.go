package callapi

import (
	"testing"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// Answers that an API server with plugins may give, and the one of the tests does not.
func TestAnAnswerThatIsNotClearLetsNobodyThrough(t *testing.T) {
	t.Parallel()
	user := authenticationv1.UserInfo{Username: "alice"}
	for name, tc := range map[string]struct {
		token authenticationv1.TokenReviewStatus
		right authorizationv1.SubjectAccessReviewStatus
		known bool
		may   bool
	}{
		"all is well": {
			token: authenticationv1.TokenReviewStatus{Authenticated: true, User: user, Audiences: []string{"other", DefaultAudience}},
			right: authorizationv1.SubjectAccessReviewStatus{Allowed: true}, known: true, may: true,
		},
		"an authenticator that knows no audiences": {token: authenticationv1.TokenReviewStatus{Authenticated: true, User: user}},
		"another audience":                         {token: authenticationv1.TokenReviewStatus{Authenticated: true, User: user, Audiences: []string{"other"}}},
		"a user without a name":                    {token: authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{DefaultAudience}}},
		"not authenticated":                        {token: authenticationv1.TokenReviewStatus{User: user, Audiences: []string{DefaultAudience}}},
		"allowed and denied":                       {right: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			clientset := fake.NewClientset()
			clientset.PrependReactor("create", "tokenreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &authenticationv1.TokenReview{Status: tc.token}, nil
			})
			clientset.PrependReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &authorizationv1.SubjectAccessReview{Status: tc.right}, nil
			})
			a := &apiServer{tokens: clientset.AuthenticationV1().TokenReviews(), rights: clientset.AuthorizationV1().SubjectAccessReviews(), audience: DefaultAudience}
			who, _ := a.who(t.Context(), "token")
			if tc.known {
				g.Expect(who).To(HaveValue(Equal(user)))
			} else {
				g.Expect(who).To(BeNil())
			}
			may, err := a.may(t.Context(), &user, "shop", "settings")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(may).To(Equal(tc.may))
		})
	}
}

// Whatever a review says about a user is passed on, for an authorizer may look at it.
func TestRightsAreThoseOfTheWholeUser(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	clientset := fake.NewClientset()
	var got authorizationv1.SubjectAccessReviewSpec
	clientset.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		got = review.Spec
		return true, review, nil
	})
	a := &apiServer{rights: clientset.AuthorizationV1().SubjectAccessReviews()}
	_, err := a.may(t.Context(), &authenticationv1.UserInfo{
		Username: "alice", UID: "1", Groups: []string{"a", "b"}, Extra: map[string]authenticationv1.ExtraValue{"node": {"n1", "n2"}},
	}, "shop", "settings")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(Equal(authorizationv1.SubjectAccessReviewSpec{
		User: "alice", UID: "1", Groups: []string{"a", "b"}, Extra: map[string]authorizationv1.ExtraValue{"node": {"n1", "n2"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "shop", Name: "settings", Verb: "create", Group: "redislock.io", Version: "v1alpha1", Resource: "debounces", Subresource: "call",
		},
	}))
}
