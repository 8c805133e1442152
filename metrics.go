// metrics.go owns the counters and timers for Prometheus. No label holds text that a node or a homeserver chose. A nil
// *metrics counts nothing.

package main

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	metricsPrefix  = "matrix_regservice_"
	outcomeRefused = "refused" // the node was not registered
)

// Upper bounds of the histograms, in seconds, around the usual values: a homeserver's call from 1 ms to its time limit, a
// verification from 50 µs for a bad form up to a busy machine without cgo, the store from a read in memory to the fsync of a
// slow disk.
var (
	callBuckets         = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15}
	verificationBuckets = []float64{.00005, .0001, .00015, .0002, .0003, .0005, .001, .0025, .005, .01, .05}
	storeBuckets        = []float64{.00001, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5}
)

// Operations of the store that are timed.
const (
	storeLoad = "load"
	storeSave = "save"
	storeDrop = "drop"
	storeList = "list" // one page
)

// A metrics is everything that is measured of one daemon.
type metrics struct {
	registry      *prometheus.Registry
	registrations *prometheus.CounterVec
	inFlight      prometheus.Gauge
	calls         prometheus.ObserverVec
	verification  prometheus.Histogram
	storeSeconds  *prometheus.HistogramVec
	asRequests    *prometheus.CounterVec
	connections   prometheus.Gauge
	crowded       prometheus.Counter
}

func newMetrics(c config.Config) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: metricsPrefix + name, Help: help, Buckets: buckets}
	}
	m.registrations = prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + "registrations_total",
		Help: "Requests to register by outcome, and by errcode if they were refused."}, []string{"outcome", "errcode"})
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{Name: metricsPrefix + "registrations_in_flight",
		Help: "Requests to register that are not answered yet."})
	calls := prometheus.NewHistogramVec(histogram("homeserver_call_seconds", "Calls to the homeserver until the answer was read.", callBuckets), []string{"api", "call", "result"})
	m.verification = prometheus.NewHistogram(histogram("verification_seconds", "Checks of a node's proof.", verificationBuckets))
	m.storeSeconds = prometheus.NewHistogramVec(histogram("store_seconds", "Operations of the store, the write to disk included.", storeBuckets), []string{"operation"})
	m.asRequests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + "appservice_requests_total",
		Help: "Requests of the homeserver to its application service, by the status they were answered."}, []string{"kind", "status"})
	m.connections = prometheus.NewGauge(prometheus.GaugeOpts{Name: metricsPrefix + "connections",
		Help: "Open connections."})
	m.crowded = prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "connections_crowded_out_total",
		Help: "Connections that were closed because there were too many, or because they used too much memory."})
	built := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricsPrefix + "build_info",
		Help: "Always 1; the labels say what the program was built from."}, []string{"version", "commit", "goversion"})

	m.registry.MustRegister(m.registrations, m.inFlight, calls, m.verification, m.storeSeconds, m.asRequests, m.connections, m.crowded, built,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.calls = calls.MustCurryWith(prometheus.Labels{"api": c.Way.Label})
	info := readBuildInfo()
	built.WithLabelValues(info.version, info.commit, runtime.Version()).Set(1)
	m.beginAtZero()
	return m
}

// beginAtZero creates the series that alerts use, since a rate misses the first step of a new series.
func (m *metrics) beginAtZero() {
	for _, did := range []outcome{outcomeCreated, outcomeCompleted, outcomeAdopted, outcomeRecreated} {
		m.registrations.WithLabelValues(string(did), "")
	}
	for _, errcode := range []string{errcodeUnknown, errcodeLimitExceeded, errcodeInvalidSignature, errcodeForbidden, errcodeUserInUse} {
		m.registrations.WithLabelValues(outcomeRefused, errcode)
	}
	for _, operation := range []string{storeLoad, storeSave, storeDrop, storeList} {
		m.storeSeconds.WithLabelValues(operation)
	}
	m.asRequests.WithLabelValues(kindTransaction, "200")
}

// handler answers a scrape.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: scrapeLog{}, ErrorHandling: promhttp.ContinueOnError, CoalesceGather: true})
}

// watch adds the size and the counts of the store, which each scrape reads.
func (m *metrics) watch(s store) { m.registry.MustRegister(&storeCollector{store: s}) }

// A storeCollector asks the store how much it holds.
type storeCollector struct{ store store }

var (
	storeBytes   = prometheus.NewDesc(metricsPrefix+"store_bytes", "Size of the store on disk.", nil, nil)
	storeRecords = prometheus.NewDesc(metricsPrefix+"records", "Nodes that the store knows, by state.", []string{"state"}, nil)
	storeBans    = prometheus.NewDesc(metricsPrefix+"banned", "Addresses that are banned, with a record or without.", nil, nil)
)

func (c *storeCollector) Describe(to chan<- *prometheus.Desc) {
	to <- storeBytes
	to <- storeRecords
	to <- storeBans
}

func (c *storeCollector) Collect(to chan<- prometheus.Metric) {
	size, err := c.store.size()
	if err != nil {
		to <- prometheus.NewInvalidMetric(storeBytes, err)
	} else {
		to <- prometheus.MustNewConstMetric(storeBytes, prometheus.GaugeValue, float64(size))
	}
	counts, err := c.store.counts()
	if err != nil {
		to <- prometheus.NewInvalidMetric(storeRecords, err)
		return
	}
	for _, s := range []state{statePending, stateRegistered} {
		to <- prometheus.MustNewConstMetric(storeRecords, prometheus.GaugeValue, float64(counts[s]), string(s))
	}
	to <- prometheus.MustNewConstMetric(storeBans, prometheus.GaugeValue, float64(counts[stateBanned]))
}

// registering counts a request to register from here to the call of the function it returns.
func (m *metrics) registering() (done func(outcome, error)) {
	if m == nil {
		return func(outcome, error) {}
	}
	m.inFlight.Inc()
	return func(did outcome, err error) {
		m.inFlight.Dec()
		if err != nil {
			m.registrations.WithLabelValues(outcomeRefused, toMatrixError(err).Errcode).Inc()
			return
		}
		m.registrations.WithLabelValues(string(did), "").Inc()
	}
}

// verified times a verification that began at start.
func (m *metrics) verified(start time.Time) {
	if m != nil {
		m.verification.Observe(time.Since(start).Seconds())
	}
}

// called counts a call to the homeserver by its name and its result.
func (m *metrics) called(name, result string, took time.Duration) {
	if m != nil {
		m.calls.WithLabelValues(name, result).Observe(took.Seconds())
	}
}

// Kinds of requests of the homeserver.
const (
	kindTransaction = "transaction"
	kindUser        = "user"
	kindAlias       = "alias"
	kindProtocol    = "protocol"
	kindThirdParty  = "thirdparty"
	kindPing        = "ping"
)

// answeredHomeserver counts a request of the homeserver that was answered.
func (m *metrics) answeredHomeserver(kind string, status int) {
	if m != nil {
		m.asRequests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
	}
}

// holding sets the number of open connections.
func (m *metrics) holding(connections int) {
	if m != nil {
		m.connections.Set(float64(connections))
	}
}

// crowdedOut counts a connection that was closed because there were too many, or because they used too much memory.
func (m *metrics) crowdedOut() {
	if m != nil {
		m.crowded.Inc()
	}
}

// storeTook times an operation of the store that began at start.
func (m *metrics) storeTook(operation string, start time.Time) {
	if m != nil {
		m.storeSeconds.WithLabelValues(operation).Observe(time.Since(start).Seconds())
	}
}

// metered returns the store with its operations timed.
func (m *metrics) metered(s store) store {
	if m == nil {
		return s
	}
	return &meteredStore{store: s, metrics: m}
}

type meteredStore struct {
	store
	metrics *metrics
}

func (s *meteredStore) Load(ctx context.Context, a common.Address) (record, error) {
	defer s.metrics.storeTook(storeLoad, time.Now())
	return s.store.Load(ctx, a)
}

func (s *meteredStore) Claim(ctx context.Context, a common.Address) (claim, error) {
	claimed, err := s.store.Claim(ctx, a)
	return s.meter(claimed), err
}

func (s *meteredStore) ClaimPending(ctx context.Context, not span) (claim, record, error) {
	claimed, pending, err := s.store.ClaimPending(ctx, not)
	return s.meter(claimed), pending, err
}

// meter returns the claim with its operations timed. A nil claim stays nil.
func (s *meteredStore) meter(claimed claim) claim {
	if claimed == nil {
		return nil
	}
	return &meteredClaim{claimed, s.metrics}
}

type meteredClaim struct {
	claim
	metrics *metrics
}

func (c *meteredClaim) Load(ctx context.Context) (record, error) {
	defer c.metrics.storeTook(storeLoad, time.Now())
	return c.claim.Load(ctx)
}

func (c *meteredClaim) Save(r record) error {
	defer c.metrics.storeTook(storeSave, time.Now())
	return c.claim.Save(r)
}

func (c *meteredClaim) Drop() error {
	defer c.metrics.storeTook(storeDrop, time.Now())
	return c.claim.Drop()
}

// A scrapeLog writes the errors of a scrape to the daemon's log.
type scrapeLog struct{}

func (scrapeLog) Println(v ...any) {
	for _, what := range v {
		if err, ok := what.(error); ok && !errors.Is(err, context.Canceled) {
			log.Warn("A scrape of the metrics is incomplete", "err", err)
		}
	}
}
