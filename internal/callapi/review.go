package callapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authentication "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorization "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/redislock-operator/redislock-operator/api/v1alpha1"
)

// The right to call a Debounce.
const (
	callVerb        = "create"
	callResource    = "debounces"
	callSubresource = "call"
)

// reviewer knows users and their rights. An error means that it could not tell.
type reviewer interface {
	// who returns whose token it is, nil where nobody's.
	who(ctx context.Context, token string) (*authenticationv1.UserInfo, error)
	may(ctx context.Context, user *authenticationv1.UserInfo, namespace, name string) (bool, error)
}

// apiServer asks the cluster.
type apiServer struct {
	tokens   authentication.TokenReviewInterface
	rights   authorization.SubjectAccessReviewInterface
	audience string
}

func newAPIServer(cfg *rest.Config, audience string) (*apiServer, error) {
	cfg = rest.CopyConfig(cfg)
	// What is asked is bounded for each address; a bound of the client's would have all
	// callers wait for one.
	cfg.QPS, cfg.RateLimiter = -1, nil
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	tokens, err := authentication.NewForConfigAndClient(cfg, client)
	if err != nil {
		return nil, err
	}
	rights, err := authorization.NewForConfigAndClient(cfg, client)
	if err != nil {
		return nil, err
	}
	return &apiServer{tokens: tokens.TokenReviews(), rights: rights.SubjectAccessReviews(), audience: audience}, nil
}

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

func (a *apiServer) who(ctx context.Context, token string) (*authenticationv1.UserInfo, error) {
	review, err := a.tokens.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{a.audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("reviewing a token: %w", err)
	}
	status := review.Status
	switch {
	case !status.Authenticated:
		return nil, nil
	case !slices.Contains(status.Audiences, a.audience):
		// An authenticator that knows nothing of audiences lets every token through.
		return nil, nil
	case status.User.Username == "":
		return nil, errors.New("reviewing a token: the API server names no user")
	}
	return &status.User, nil
}

func (a *apiServer) may(ctx context.Context, user *authenticationv1.UserInfo, namespace, name string) (bool, error) {
	var extra map[string]authorizationv1.ExtraValue
	for key, values := range user.Extra {
		if extra == nil {
			extra = map[string]authorizationv1.ExtraValue{}
		}
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review, err := a.rights.Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: callVerb, Group: v1alpha1.GroupName, Version: v1alpha1.SchemeGroupVersion.Version,
				Resource: callResource, Subresource: callSubresource, Namespace: namespace, Name: name,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("reviewing the rights of %q: %w", user.Username, err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}
