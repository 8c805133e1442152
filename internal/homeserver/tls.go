// tls.go owns what goes wrong between TLS and plain HTTP, as the one who asks sees it.

package homeserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// TrustCertificate is what to do about a certificate that is not trusted here. Go reads the variable.
const TrustCertificate = "set SSL_CERT_FILE to the file of the certificate, or of the one that signed it"

// TrustHint says what to do about a certificate that a call failed over; "" where it did not.
func TrustHint(err error) string {
	if !IsUntrusted(err) {
		return ""
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "renew the certificate of the server, or set the clock of this machine"
	}
	if other, ok := errors.AsType[x509.HostnameError](err); ok {
		if names := other.Certificate.DNSNames; len(names) > 0 {
			return "the certificate is for " + redact.Line(strings.Join(names, ", ")) + ": give the URL with that name"
		}
		return "the certificate is for another name: give the URL with the name that the certificate has"
	}
	return TrustCertificate
}

// IsUntrusted reports whether a call failed because the server's certificate is not trusted, or is another name's.
func IsUntrusted(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// IsPlain reports whether a call over TLS failed because the server speaks none. Do of net/http has an error of its own for that.
func IsPlain(err error) bool {
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok || errors.Is(err, http.ErrSchemeMismatch)
}

// SpeaksTLS reports whether a server takes part in a handshake, and for which host its certificate is: the one that is preferred,
// if it is for that. Who signed it does not matter: nothing is sent.
func SpeaksTLS(ctx context.Context, address, preferred string) (host string, speaks bool) {
	ctx, cancel := context.WithTimeout(ctx, ReadTime)
	defer cancel()
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTime}, Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address)
	if err != nil {
		refused := tls.AlertError(0)
		return "", errors.As(err, &refused)
	}
	defer conn.Close()
	return hostOf(conn.(*tls.Conn).ConnectionState().PeerCertificates, preferred), true
}

func hostOf(chain []*x509.Certificate, preferred string) string {
	switch {
	case len(chain) == 0:
		return ""
	case chain[0].VerifyHostname(preferred) == nil:
		return preferred
	}
	if at := slices.IndexFunc(chain[0].DNSNames, func(name string) bool { return chain[0].VerifyHostname(name) == nil }); at >= 0 {
		return chain[0].DNSNames[at]
	}
	return ""
}
