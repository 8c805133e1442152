// reverse_proxy_released.go tells whether released Photon nodes get in where nodes come in: they speak plain HTTP to port 8008, and nothing else.

package check

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

const releasedPort = "8008" // it is in the code of every released node

// released judges --public-url. A network with nodes of its own may do without released ones, so that it is no more than a note
// that they do not get in.
func (chk *checking) released(ctx context.Context) []Finding {
	public, err := url.Parse(chk.Public)
	if err != nil {
		return nil
	}
	return releasedAt(ctx, *public, plainURL(*public))
}

// plainURL is where released nodes come in: beside TLS at their own port, and else where everybody does.
func plainURL(public url.URL) url.URL {
	if public.Scheme == "https" {
		public.Scheme, public.Host = "http", net.JoinHostPort(public.Hostname(), releasedPort)
	}
	return public
}

// releasedAt cannot tell where everybody comes in and neither plain HTTP nor TLS is spoken: others find the cause of that.
func releasedAt(ctx context.Context, public, plain url.URL) []Finding {
	const subject = subjectProxy + " released nodes"
	const do = "for released nodes write in nginx, in the place of listen 8008 ssl: `listen 8008;` a network with nodes of its own that speak TLS leaves it as it is"
	at := net.JoinHostPort(plain.Hostname(), strconv.Itoa(names.URLPort(plain.String())))
	_, status := sayVersions(ctx, homeserver.NewClient(strings.TrimSuffix(plain.String(), "/"), ""), nil)
	_, speaksTLS := homeserver.SpeaksTLS(ctx, at, "")
	switch {
	case speaksTLS:
		return []Finding{note(subject, do, "%s speaks TLS: no released Photon node gets in there, since they speak plain HTTP to port %s", at, releasedPort)}
	case status != 0: // whatever it is: others judge that
		return []Finding{fine(subject, "%s speaks plain HTTP, as they do", at)}
	case public != plain:
		return []Finding{note(subject, do, "nothing answers at http://%s, where released Photon nodes come in", at)}
	}
	return []Finding{unseen(subject, "no homeserver answers at %s", at).follows(subjectProxy + " /_matrix")}
}
