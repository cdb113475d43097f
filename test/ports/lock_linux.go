package ports

import (
	"fmt"
	"net"
)

// acquire locks the number between processes. A socket in the abstract
// namespace is a lock that leaves no file and goes with its holder.
func acquire(number int) (net.Listener, error) {
	return net.Listen("unix", fmt.Sprintf("@redislock-operator-port-%d", number))
}
