// Package realnode tests the guard where processes really run: two clusters side by
// side, each with a kubelet, containerd and runc, and containers that write to one
// register with the fencing token they were given. The register sees when a process
// starts, when it is sent SIGTERM and when it is gone, and so whether two were ever
// there at once.
//
// It needs Linux and root, and fails where it has not got them.
package realnode
