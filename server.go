// server.go owns what is served: the routes, the register handler, the audit line, and the HTTP server with its time
// limits.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/nginx"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ant0ine/go-json-rest/rest"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/ethereum/go-ethereum/log"
)

const (
	appServicePath = "/regapp/1" // registration.yaml's url ends in it
	registerPath   = appServicePath + "/register"

	bodyLimit   = 8 << 10          // bytes; a registration has 340
	headerLimit = 8 << 10          // bytes of the request line and the header
	retryLater  = 10 * time.Second // how long a client is told to wait if no time is known

	transactionTime = time.Minute // for a whole transaction's body to arrive

	lineRegistered = "Registered node"
)

var (
	errMediaType = errors.New("Content-Type must be application/json")

	// errUncleanPath also identifies this service: check finds it where nginx passes on the path as a client wrote it.
	errUncleanPath = errors.New("the path has an empty segment or a dot segment, encoded or not")
)

// A bodyTooLargeError says how many bytes a body may have.
type bodyTooLargeError struct{ limit int64 }

func (e *bodyTooLargeError) Error() string { return fmt.Sprintf("the body is over %d bytes", e.limit) }

// A server answers nodes, and the homeserver.
type server struct {
	serverName string
	registrar  *registrar
	appService *appServiceAPI
	metrics    *metrics
	attempts   *attempts
	admission  *admission.Admission

	proxies        limit.Proxies
	perClient      *limit.Buckets
	warnUnnamed    sync.Once // so that the log says once that a proxy does not name its clients
	maxConnections int
}

func newServer(c service, s store) *server {
	s = c.metrics.metered(s)
	r := newRegistrar(c.accounts, s)
	r.newNodes = limit.NewBuckets(c.TotalRate, c.TotalBurst, 1, "too many new nodes at once")
	r.slots = limit.NewSlots(c.MaxInflight)
	return &server{
		serverName:     c.ServerName,
		registrar:      r,
		appService:     &appServiceAPI{serverName: c.ServerName, hsToken: c.HSToken, store: s, metrics: c.metrics, proxies: c.TrustedProxies},
		metrics:        c.metrics,
		attempts:       c.attempts,
		admission:      c.admission,
		proxies:        c.TrustedProxies,
		perClient:      limit.NewBuckets(c.Rate, c.Burst, limit.ClientsKept, "too many requests from this address"),
		maxConnections: c.MaxConnections,
	}
}

// handler serves every path, with the limits that all requests have.
func (s *server) handler() http.Handler {
	router, err := rest.MakeRouter(append(s.appService.routes(), rest.Post(registerPath, s.register))...)
	if err != nil {
		panic(err) // the routes are constants
	}
	api := rest.NewApi()
	api.Use(rest.MiddlewareSimple(asMatrixErrors))
	api.SetApp(router)
	return onlyCleanPaths(s.limitBodies(api.MakeHandler()))
}

// onlyCleanPaths refuses paths with dot segments or empty segments, which a proxy may read as another path than this service does. It
// does so before any token is checked. Only the slash after appServicePath may be doubled: Synapse 0.34.0 doubles it if the url in
// registration.yaml ends in one, and repeats a transaction without end if the answer is 404.
func onlyCleanPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), appServicePath+"//"); ok {
			r.URL.Path = strings.Replace(r.URL.Path, "//", "/", 1)
			r.URL.RawPath = appServicePath + "/" + rest
		}
		if !isCleanPath(r.URL) {
			toMatrixError(errUncleanPath).answer(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isCleanPath reports whether every server resolves the path in the same way. An id in it may hold slashes, encoded or not.
func isCleanPath(u *url.URL) bool {
	for segment := range strings.SplitSeq(u.Path, "/") { // decoded
		if segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.Contains(u.EscapedPath(), "//")
}

// limitBodies bounds the size of a body and the time that it may take. A homeserver's transaction may be larger and slower.
func (s *server) limitBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most := int64(bodyLimit)
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/transactions/") && s.appService.checkToken(r) == nil {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(transactionTime)) // a test's recorder has none
			most = transactionLimit
		}
		r.Body = limit.WatchBody(r, http.MaxBytesReader(w, r.Body, most), most == bodyLimit)
		next.ServeHTTP(w, r)
	})
}

// register answers POST /regapp/1/register.
func (s *server) register(w rest.ResponseWriter, r *rest.Request) {
	start := time.Now()
	var n node
	var did outcome
	var accessToken string
	var err error
	done := s.metrics.registering()
	client, known := s.proxies.Client(r.Request)
	defer func() {
		if broken := recover(); broken != nil {
			err = errPanic
			defer panic(broken) // which asMatrixErrors logs and answers
		}
		done(did, err)
		s.audit(client, n, did, err, time.Since(start))
		s.attempts.note(client, n, did, err)
	}()
	n, err = s.readNode(r.Request, client, known)
	if err == nil {
		err = s.admission.Admit(n.Address)
	}
	if err == nil {
		growStack()
		accessToken, did, err = s.registrar.register(r.Context(), n)
	}
	if err != nil {
		toMatrixError(err).write(w)
		return
	}
	answer := struct {
		UserID      string `json:"user_id"`
		HomeServer  string `json:"home_server"`
		AccessToken string `json:"access_token,omitempty"`
	}{n.UserID, s.serverName, accessToken}
	w.WriteJson(answer)
}

// registrationStack is how much more stack a registration takes than its proof.
const registrationStack = 6 << 10

// growStack has the stack of this goroutine grow before it is full, where there is less to copy. Of a registration's processor time it
// saves 1 % with 64 nodes at once, and 3 % with 8. Only after the proof: the memory of requests without one is bounded.
//
//go:noinline
func growStack() {
	var room [registrationStack]byte
	touch(&room)
}

//go:noinline
func touch(*[registrationStack]byte) {}

// admitClient limits each client by its address. If a proxy does not name its client there is no limit, and the log says so: all
// clients would share one bucket, and one client could lock every node out.
func (s *server) admitClient(client netip.Addr, known bool) error {
	if known {
		return s.perClient.Take(limit.KeyOf(client))
	}
	s.warnUnnamed.Do(func() {
		log.Warn("A proxy does not name its client: registrations that come through it are not limited by address",
			"proxy", client, "nginx", nginx.Forwards)
	})
	return nil
}

// readNode checks a request in the order of the contract, and returns the node that it proves.
func (s *server) readNode(r *http.Request, client netip.Addr, known bool) (node, error) {
	if given := r.Header.Get("Content-Type"); given != "" {
		if media, _, _ := mime.ParseMediaType(given); media != "application/json" {
			return node{}, errMediaType
		}
	}
	if err := s.admitClient(client, known); err != nil {
		return node{}, err
	}
	body, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return node{}, &bodyTooLargeError{tooLarge.Limit}
	}
	if err != nil {
		return node{}, badRequest(faultNotJSON, "the body broke off")
	}
	var sent registration
	err = json.Unmarshal(body, &sent)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok { // anywhere in the body: all of it is scanned before it is decoded
		return node{}, notJSON(body)
	}
	if err != nil || !homeserver.IsObject(body) {
		return node{}, badRequest(faultBadJSON, "the body must be a JSON object with the strings localpart, displayname and password")
	}
	defer s.metrics.verified(time.Now())
	return sent.verify(s.serverName)
}

// audit writes one line for each registration or refusal. It names the user ID only if the proof holds: an unproven localpart may be
// any text, even a password.
func (s *server) audit(client netip.Addr, n node, did outcome, err error, took time.Duration) {
	told := (*matrixError)(nil)
	fields := make([]any, 0, 14)
	if err == nil {
		fields = append(fields, "outcome", did)
	} else {
		told = toMatrixError(err)
		fields = append(fields, "status", told.status, "errcode", told.Errcode)
	}
	if n.UserID != "" {
		fields = append(fields, "user_id", n.UserID)
	}
	fields = append(fields, "client", client, "took", took.Round(time.Microsecond))
	if err == nil {
		log.Info(lineRegistered, fields...)
		return
	}
	fields = append(fields, "reason", err)
	switch { // each of these calls has a bucket of its own in the log, so that no flood of one kind hides another
	case errors.Is(err, errStore):
		log.Warn("Refused registration", fields...)
	case told.status >= 500:
		log.Warn("Refused registration", fields...)
	case errors.Is(err, errForeign):
		log.Warn("Refused registration", fields...)
	case n.UserID != "":
		log.Info("Refused registration", fields...)
	default: // without a proof
		log.Info("Refused registration", fields...)
	}
}

// serve answers on the listener until the context ends, and then lets requests in flight finish. The time limits keep clients
// from holding a connection for nothing. The limit of a write is the connection's (limit.Listener), since an answer may have
// to wait long before it is written.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	held := &limit.Listener{Listener: listener, Most: s.maxConnections, Holding: s.metrics.holding, CrowdedOut: s.metrics.crowdedOut}
	handler := s.handler()
	defer keepWatchdog(handler)() // until requests in flight have ended
	httpServer := &http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  10 * time.Second,
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               headerLimit - 4<<10, // to which net/http adds 4 KiB
		ConnState:                    held.ConnState,
		ConnContext:                  limit.ConnContext,
		DisableGeneralOptionsHandler: true, // it would answer without a body
		ErrorLog:                     newErrorLog(),
	}
	var reconciling sync.WaitGroup // which uses the store that the caller closes
	reconciling.Go(s.registrar.reconcileAll)
	defer reconciling.Wait()
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(held) }()

	select {
	case err := <-failed:
		s.registrar.stop()
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.registrar.stop()
	daemon.SdNotify(false, daemon.SdNotifyStopping)
	log.Info("Stopping", "for_requests_in_flight", drainTime)
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := httpServer.Shutdown(drain); err != nil {
		log.Warn("Gave up on requests in flight", "err", err)
		httpServer.Close()
	}
	return nil
}

// newErrorLog takes the lines that a server of net/http logs. They may quote a client, or the value of a panic.
func newErrorLog() *stdlog.Logger { return stdlog.New(errorLog{}, "", 0) }

type errorLog struct{}

func (errorLog) Write(p []byte) (int, error) {
	said, stack, isPanic := strings.Cut(string(p), "\ngoroutine ")
	said = redact.MaskLine(said)
	if isPanic {
		log.Error("A handler panicked", "err", said, "stack", stack)
	} else {
		log.Warn("The HTTP server reports an error", "err", said)
	}
	return len(p), nil
}

// filesBeside is how many files may be open besides the connections of nodes and those to the homeserver: the store, the
// listeners, the log, the connections of the operator and to the Ethereum node, and those of abandoned attempts that linger.
const filesBeside = 128

// connectionsWithin returns how many connections may be open if the system allows that many open files. With more connections no
// file would be left to accept another one, or to call the homeserver.
func connectionsWithin(l config.Limits, files uint64) int {
	beside := filesBeside + l.MaxInflight
	if l.MaxConnections == 0 || files >= uint64(l.MaxConnections+beside) {
		return l.MaxConnections
	}
	return max(int(files)-beside, int(files)/2, 1)
}

// fitFiles lowers the limit of connections if the system allows too few open files.
func fitFiles(l *config.Limits) {
	files := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return
	}
	fit := connectionsWithin(*l, uint64(files.Cur)) // which Go has raised as far as it may
	if fit < l.MaxConnections {
		log.Warn("Holding fewer connections, since few files may be open: raise LimitNOFILE of the unit, or ulimit -n, or lower --"+config.FlagMaxConnections,
			"connections", fit, "files", files.Cur, "needed", l.MaxConnections+filesBeside+l.MaxInflight)
	}
	l.MaxConnections = fit
}
