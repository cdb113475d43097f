package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxBulk is Redis' own limit (proto-max-bulk-len).
const maxBulk = 512 << 20

var errProtocol = errors.New("not RESP")

// readCommand reads one command of a client, whole: its bytes as they came, and
// its arguments. Both forms are read, arrays and inline commands.
func readCommand(r *bufio.Reader) (raw []byte, args []string, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return line, nil, err
	}
	raw = line
	if line[0] != '*' {
		return raw, strings.Fields(string(line)), nil
	}
	n, err := length(line)
	if err != nil {
		return raw, nil, err
	}
	for range n {
		line, err := r.ReadBytes('\n')
		raw = append(raw, line...)
		if err != nil {
			return raw, nil, unexpected(err)
		}
		if line[0] != '$' {
			return raw, nil, fmt.Errorf("%w: argument starts with %q", errProtocol, line[0])
		}
		body, err := readBulk(r, line)
		raw = append(raw, body...)
		if err != nil {
			return raw, nil, err
		}
		args = append(args, string(bytes.TrimSuffix(body, []byte("\r\n"))))
	}
	return raw, args, nil
}

// readReply reads one reply of the server, whole, of RESP2 or RESP3. A push is
// not the reply to anything.
func readReply(r *bufio.Reader) (raw []byte, push bool, err error) {
	raw, err = readValue(r, nil)
	return raw, len(raw) > 0 && raw[0] == '>', err
}

func readValue(r *bufio.Reader, raw []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	raw = append(raw, line...)
	if err != nil {
		if len(raw) > 0 {
			err = unexpected(err)
		}
		return raw, err
	}
	values := 0
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return raw, nil
	case '$', '=', '!':
		body, err := readBulk(r, line)
		return append(raw, body...), err
	case '*', '~', '>':
		values, err = length(line)
	case '%':
		values, err = length(line)
		values *= 2
	case '|':
		// Attributes stand before the value that they belong to.
		values, err = length(line)
		values = values*2 + 1
	default:
		err = fmt.Errorf("%w: reply starts with %q", errProtocol, line[0])
	}
	for range values {
		if raw, err = readValue(r, raw); err != nil {
			return raw, unexpected(err)
		}
	}
	return raw, err
}

func readBulk(r *bufio.Reader, header []byte) ([]byte, error) {
	n, err := length(header)
	if err != nil || n < 0 {
		return nil, err
	}
	if n > maxBulk {
		return nil, fmt.Errorf("%w: a string of %d bytes", errProtocol, n)
	}
	body := make([]byte, n+len("\r\n"))
	read, err := io.ReadFull(r, body)
	return body[:read], unexpected(err)
}

// length reads the number after the type of a value; -1 stands for null.
func length(line []byte) (int, error) {
	n, err := strconv.Atoi(strings.TrimRight(string(line[1:]), "\r\n"))
	if err != nil {
		return 0, fmt.Errorf("%w: length %q", errProtocol, line)
	}
	return n, nil
}

// unexpected marks an end of the stream within a value.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
