// Package callapi is the HTTP endpoint by which a Debounce is called:
//
//	POST /v1/namespaces/{namespace}/debounces/{name}/call
//
// The body is the payload. Each replica of the manager serves it, leader or not, by TLS
// only. Who calls is asked of the API server by a TokenReview with an audience of our
// own, whether he may by a SubjectAccessReview on debounces/call: nobody gets past them
// while the API server is away, unless it answered for him a few seconds before.
//
// The manager that serves it also renews leases, so nothing that a caller does may cost
// much: connections, requests, bodies, times, and what the API server is asked, are all
// bounded, and where they can be told apart each address and each user on its own.
//
// Nobody who has no right to call a Debounce learns whether it exists.
package callapi
