// ops.go owns what only the operator reaches: the answers at the unix socket, by which commands list and copy the store while the
// daemon serves it, and the listener of --ops-listen for health and metrics. If one of them fails, the daemon runs on.

package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/admission"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/limit"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

const (
	usersPath     = "/users"
	banPath       = "/ban" // by POST, like unbanPath
	unbanPath     = "/unban"
	refusedPath   = "/refused"
	lookUpPath    = "/node"
	backupPath    = "/backup"
	statusPath    = "/status"
	readinessPath = "/readiness"

	nodeParameter       = "node"        // an address
	serverNameParameter = "server_name" // of a user ID that the operator gave
	storeParameter      = "store"       // the store whose daemon is meant, if the place of the socket does not show it

	opsAnswerTime = 10 * time.Second // for an answer that is not a stream
	opsPatience   = 10 * time.Minute // for a reader to take the next byte of a stream: a person may page through it
	opsDrainTime  = time.Second      // for the operator's requests at shutdown, after those of nodes

	opsConnections = 32 // at once at --ops-listen; filesBeside leaves room for them
)

// An ops answers the operator.
type ops struct {
	service
	store  store
	health *health
	copies sync.Mutex // one at a time: each takes the store's size on disk while it is sent
}

// startOps serves the operator until the function it returns is called. The context ends when shutdown begins.
func startOps(ctx context.Context, c service, s store, listener net.Listener) (stop func(), err error) {
	o := &ops{service: c, store: s, health: newHealth(ctx, c, s)}
	socket, remove, err := net.Listener(nil), func() {}, error(nil)
	shared := names.IsPostgres(c.DataPath)
	dir := config.SocketDirs(c.DataPath)[0]
	if shared {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		socket, remove, err = listenSocket(dir, !shared)
	}
	switch {
	case errors.Is(err, errSocketTaken) && !shared: // as it may be where several gateways are started in one place
		return nil, err
	case err != nil: // some file systems have no sockets: nodes are served all the same
		log.Warn("The commands users, refused, ban and backup cannot reach this daemon", "err", err)
		remove = func() {}
	}
	var servers []*http.Server
	if socket != nil {
		servers = append(servers, serveOps(limit.PeerListener{Listener: socket}, o.socketHandler()))
	}
	if listener != nil {
		c.metrics.watch(s)
		// Limited like those of nodes: otherwise a client of this port could use up all files, and nodes could not connect.
		servers = append(servers, serveOps(&limit.Listener{Listener: listener, Most: opsConnections}, o.healthHandler()))
	}
	return func() {
		remove()
		drain, cancel := context.WithTimeout(context.Background(), opsDrainTime)
		defer cancel()
		for _, server := range servers {
			if server.Shutdown(drain) != nil {
				server.Close()
			}
		}
	}, nil
}

// serveOps serves on the listener. It has time limits for the same reason as server.go.
func serveOps(listener net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = limit.WatchBody(r, http.MaxBytesReader(w, r.Body, 0), false) // no request here has a body
			handler.ServeHTTP(w, r)
		}),
		ConnContext:       limit.ConnContext,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      opsAnswerTime, // a stream extends it while somebody reads
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          newErrorLog(),
	}
	if held, ok := listener.(*limit.Listener); ok {
		server.ConnState = held.ConnState
	}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("The operator is no longer served; nodes still are", "address", listener.Addr(), "err", err)
		}
	}()
	return server
}

func (o *ops) socketHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+usersPath, o.users)
	mux.HandleFunc("GET "+backupPath, o.backup)
	mux.HandleFunc("GET "+statusPath, o.status)
	mux.HandleFunc("GET "+refusedPath, o.refused)
	mux.HandleFunc("GET "+lookUpPath, o.lookUp)
	mux.HandleFunc("POST "+banPath, o.setBan)
	mux.HandleFunc("POST "+unbanPath, o.setBan)
	mux.HandleFunc("GET "+readinessPath, o.readiness)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if of := r.URL.Query().Get(storeParameter); of != "" && of != storeName(o.DataPath) {
			http.Error(w, "this daemon serves another store", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (o *ops) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", o.health.live)
	mux.HandleFunc("GET /readyz", o.health.ready)
	mux.Handle("GET /metrics", o.metrics.handler())
	return mux
}

// A listedUser is a record as it is listed. It leaves out the display name, which is half of a node's proof.
type listedUser struct {
	Localpart string     `json:"localpart"`
	UserID    string     `json:"user_id"`
	State     state      `json:"state"`
	Created   time.Time  `json:"created,omitzero"`
	Updated   time.Time  `json:"updated,omitzero"`
	Banned    *time.Time `json:"banned,omitempty"` // since when
}

// stateUnknown is how a banned address without a record is listed.
const stateUnknown state = "unknown"

func listed(r record) listedUser {
	u := listedUser{r.Localpart, r.UserID, cmp.Or(r.State, stateUnknown), r.Created, r.Updated, nil}
	if !r.Banned.IsZero() {
		u.Banned = &r.Banned
	}
	return u
}

// users streams the requested records, one JSON object a line. If it fails on the way, it breaks the connection off, so that nobody
// takes a part for the whole list.
func (o *ops) users(w http.ResponseWriter, r *http.Request) {
	asked, err := selectionOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	patient := &patientWriter{ResponseWriter: w}
	buffer := bufio.NewWriterSize(patient, listBuffer)
	lines := json.NewEncoder(buffer)
	err = asked.each(r.Context(), &listedStore{ops: o, answer: patient}, func(u listedUser) error { return lines.Encode(u) })
	if err == nil {
		err = buffer.Flush()
	}
	if err != nil {
		patient.fail(r, err)
	}
}

// A listedStore is the store whose listings are timed. It begins the answer with the first page, since the first line may take
// long: the newest are known after the last page, and a client takes a silent daemon for one that hangs.
type listedStore struct {
	*ops
	answer *patientWriter
	begun  bool // the answer is
}

func (l *listedStore) Load(ctx context.Context, a common.Address) (record, error) {
	return l.store.Load(ctx, a)
}

func (l *listedStore) List(ctx context.Context, of state, after string) ([]record, string, error) {
	defer l.metrics.storeTook(storeList, time.Now())
	page, last, err := l.store.List(ctx, of, after)
	if err == nil && !l.begun {
		l.begun = true
		l.answer.begin()
	}
	return page, last, err
}

// backup copies the store to a file without a name and sends that file. So the store's transaction is as short as the disk
// allows, however slow the reader is, and the length is known.
func (o *ops) backup(w http.ResponseWriter, r *http.Request) {
	if !o.copies.TryLock() {
		http.Error(w, "another backup is being made", http.StatusConflict)
		return
	}
	defer o.copies.Unlock()
	patient := &patientWriter{ResponseWriter: w}
	if err := o.sendCopy(patient, r); err != nil {
		patient.fail(r, err)
	}
}

func (o *ops) sendCopy(w *patientWriter, r *http.Request) error {
	spool, err := os.CreateTemp(o.DataPath, ".backup-")
	if err != nil {
		return err
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return err
	}
	if err := o.store.Backup(r.Context(), spool); err != nil {
		return err
	}
	size, err := spool.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	_, err = io.Copy(w, spool)
	return err
}

// A daemonStatus is the answer of a daemon at statusPath.
type daemonStatus struct {
	Version    string      `json:"version"`
	ServerName string      `json:"server_name"`
	Records    storeCounts `json:"records"`
	StoreBytes int64       `json:"store_bytes"`

	PID        int               `json:"pid"`
	Admitted   *admission.Loaded `json:"admitted,omitempty"`    // the list of who may register; nil where there is none
	MinBalance string            `json:"min_balance,omitempty"` // in wei; "" where no balance is asked for
}

func (o *ops) status(w http.ResponseWriter, r *http.Request) {
	counts, countsErr := o.store.counts()
	size, sizeErr := o.store.size()
	if err := errors.Join(countsErr, sizeErr); err != nil {
		(&patientWriter{ResponseWriter: w}).fail(r, err)
		return
	}
	records := storeCounts{statePending: counts[statePending], stateRegistered: counts[stateRegistered]}
	if banned := counts[stateBanned]; banned > 0 {
		records[stateBanned] = banned
	}
	said := daemonStatus{Version: version(), ServerName: o.ServerName, Records: records, StoreBytes: size, PID: os.Getpid(), Admitted: o.admission.Loaded()}
	if o.EthRPC != "" {
		said.MinBalance = o.Config.MinBalance.String()
	}
	answerJSON(w, said)
}

// readiness answers why no node could register now, with an empty list if one could.
func (o *ops) readiness(w http.ResponseWriter, r *http.Request) {
	wrong, _ := o.health.reasons(r.Context())
	answerJSON(w, append([]unready{}, wrong...))
}

// setBan bans the node that is named, or ends its ban.
func (o *ops) setBan(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(banTime + opsAnswerTime))
	a, err := o.nodeIn(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	set := o.nodeAdmin().ban
	if r.URL.Path == unbanPath {
		set = o.nodeAdmin().unban
	}
	result, err := set(r.Context(), a)
	if err != nil {
		(&patientWriter{ResponseWriter: w}).fail(r, err)
		return
	}
	answerJSON(w, result)
}

// refused lists the refusals that this daemon remembers.
func (o *ops) refused(w http.ResponseWriter, r *http.Request) {
	answerJSON(w, o.attempts.list(func(a attempt) bool { return a.Errcode != "" }))
}

// lookUp answers with all that is known about one node.
func (o *ops) lookUp(w http.ResponseWriter, r *http.Request) {
	a, err := o.nodeIn(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	found, err := o.nodeAdmin().lookUp(r.Context(), a)
	if err != nil {
		(&patientWriter{ResponseWriter: w}).fail(r, err)
		return
	}
	found.Attempts = o.attempts.list(func(a attempt) bool { return a.UserID == found.UserID })
	answerJSON(w, found)
}

func (o *ops) nodeAdmin() *nodeAdmin {
	return &nodeAdmin{store: o.store, serverName: o.ServerName, accounts: o.accounts}
}

// answerJSON answers with the value.
func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value)
}

// nodeIn reads which node the operator asks for.
func (o *ops) nodeIn(r *http.Request) (common.Address, error) {
	a, _, err := parseNode(r.URL.Query().Get(nodeParameter))
	if err != nil {
		return a, err
	}
	return a, checkNode(r.URL.Query().Get(serverNameParameter), o.ServerName)
}

// A patientWriter has a time limit for each piece of a stream, and none for the whole.
type patientWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *patientWriter) Write(p []byte) (int, error) {
	w.begun = true
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(opsPatience))
	return w.ResponseWriter.Write(p)
}

// begin sends the status and the headers.
func (w *patientWriter) begin() {
	w.Write(nil)
	http.NewResponseController(w.ResponseWriter).Flush()
}

// fail tells the operator why there is no answer. If a part of the answer is sent already, it breaks the connection off.
func (w *patientWriter) fail(r *http.Request, err error) {
	if r.Context().Err() == nil {
		log.Warn("A request of the operator failed", "path", r.URL.Path, "err", err)
	}
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	http.Error(w.ResponseWriter, err.Error(), http.StatusServiceUnavailable)
}
