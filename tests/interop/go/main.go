// spiffe-peer is a mesh peer on go-spiffe: its verification, its TLS and its
// Workload API client are nobody's here.
//
//	spiffe-peer serve SOCKET ADDRESS ID    echo to callers that are ID
//	spiffe-peer call SOCKET ADDRESS ID     stdin there, stdout back
//	spiffe-peer watch SOCKET COUNT         print COUNT updates
//	spiffe-peer bundles SOCKET             print the trust domains once
//
// SOCKET is a Workload API address. Everything is logged to stderr, one
// sentence a line.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const deadline = 20 * time.Second

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func source(ctx context.Context, socket string) (*workloadapi.X509Source, error) {
	first, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return workloadapi.NewX509Source(first,
		workloadapi.WithClientOptions(workloadapi.WithAddr(socket)))
}

// peerID is judged by go-spiffe again, from the leaf that it has verified.
func peerID(c *tls.Conn) string {
	id, err := x509svid.IDFromCert(c.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err.Error()
	}
	return id.String()
}

func echo(c *tls.Conn) {
	defer c.Close()
	if err := c.Handshake(); err != nil {
		say("refused: %v", err)
		return
	}
	say("accepted %s resumed=%v", peerID(c), c.ConnectionState().DidResume)
	n, err := io.Copy(c, c)
	if err == nil {
		err = c.CloseWrite()
	}
	say("ended after %d: %v", n, err)
}

func serve(ctx context.Context, socket, address, want string) error {
	src, err := source(ctx, socket)
	if err != nil {
		return err
	}
	defer src.Close()
	id, err := spiffeid.FromString(want)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", address, tlsconfig.MTLSServerConfig(
		src, src, tlsconfig.AuthorizeID(id)))
	if err != nil {
		return err
	}
	say("listening %s", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go echo(c.(*tls.Conn))
	}
}

func call(ctx context.Context, socket, address, want string) error {
	src, err := source(ctx, socket)
	if err != nil {
		return err
	}
	defer src.Close()
	id, err := spiffeid.FromString(want)
	if err != nil {
		return err
	}
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: deadline},
		Config: tlsconfig.MTLSClientConfig(
			src, src, tlsconfig.AuthorizeID(id)),
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	c := conn.(*tls.Conn)
	defer c.Close()
	say("connected %s", peerID(c))
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, os.Stdin)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	if _, err := io.Copy(os.Stdout, c); err != nil {
		return err
	}
	return <-sent
}

// updates counts down and says what came.
type updates struct {
	left int
	done chan error
}

func (u *updates) OnX509ContextUpdate(x *workloadapi.X509Context) {
	for _, s := range x.SVIDs {
		say("svid %s %x hint=%s", s.ID, s.Certificates[0].SerialNumber,
			s.Hint)
	}
	var names []string
	for _, b := range x.Bundles.Bundles() {
		names = append(names, b.TrustDomain().Name())
	}
	sort.Strings(names)
	say("bundles %v", names)
	if u.left--; u.left == 0 {
		u.done <- nil
	}
}

func (u *updates) OnX509ContextWatchError(err error) { say("error: %v", err) }

func watch(ctx context.Context, socket, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	u := &updates{left: n, done: make(chan error, 1)}
	go func() {
		err := workloadapi.WatchX509Context(ctx, u,
			workloadapi.WithAddr(socket))
		select {
		case u.done <- err:
		default:
		}
	}()
	return <-u.done
}

func bundles(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	set, err := workloadapi.FetchX509Bundles(ctx,
		workloadapi.WithAddr(socket))
	if err != nil {
		return err
	}
	for _, b := range set.Bundles() {
		say("bundle %s %d", b.TrustDomain().Name(),
			len(b.X509Authorities()))
	}
	return nil
}

func run(args []string) error {
	ctx := context.Background()
	switch {
	case len(args) == 4 && args[0] == "serve":
		return serve(ctx, args[1], args[2], args[3])
	case len(args) == 4 && args[0] == "call":
		return call(ctx, args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "watch":
		return watch(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "bundles":
		return bundles(ctx, args[1])
	}
	return errors.New("usage: serve|call|watch|bundles SOCKET ...")
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		say("failed: %v", err)
		os.Exit(1)
	}
}
