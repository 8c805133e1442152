// urls.go owns the forms of URLs: of HTTP, of an Ethereum node and of PostgreSQL. Its errors never quote a URL, which may hold a
// password or a key.

package names

import (
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// IsHTTP reports whether the URL is an absolute http or https URL with a valid host and port.
func IsHTTP(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && IsHost(u.Hostname()) && (u.Port() == "" || IsPort(u.Port()))
}

// URLHost is the host and port of a URL that was checked before.
func URLHost(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Host
}

// URLPort returns the port of a URL, explicit or by its scheme, or 0 if it cannot be read.
func URLPort(text string) int {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return 0
	case u.Port() == "" && u.Scheme == "https":
		return 443
	case u.Port() == "":
		return 80
	}
	port, _ := strconv.Atoi(u.Port())
	return port
}

// IsPlainRemote reports whether calls to the URL would cross a network in the clear.
func IsPlainRemote(u *url.URL) bool {
	return u.Scheme != "https" && !IsLoopback(u.Hostname())
}

// ParseEthereumURL reads the URL of an Ethereum node.
func ParseEthereumURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || !IsHTTP(u) || u.Fragment != "" {
		return nil, errors.New("not the http or https URL of an Ethereum node: give one such as http://127.0.0.1:8545")
	}
	return u, nil
}

// MayHoldKey reports whether the URL of an Ethereum node may hold a key: providers put it in the path, in the query or in the
// password.
func MayHoldKey(u *url.URL) bool {
	return strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil
}

// IsPostgres reports whether the path is a PostgreSQL URL and not a directory.
func IsPostgres(dataPath string) bool {
	return strings.HasPrefix(dataPath, "postgres://") || strings.HasPrefix(dataPath, "postgresql://")
}

var (
	postgresScheme  = regexp.MustCompile(`(?i)^["'\s]*postgres(ql)?:`)
	postgresKeyword = regexp.MustCompile(`(?i)(?:^|[\s"';,&?])(host|hostaddr|port|user|dbname|password|passfile|sslpassword|service|sslmode)\s*=`)
	userPassword    = regexp.MustCompile(`^["'\s]*(//)?[^./\s][^:]*:.*@`) // user:password@host, after a misspelt scheme too
)

// IsNearlyPostgres reports whether the text means PostgreSQL in another form than a URL. As a directory it would be created and
// logged, with a password in it.
func IsNearlyPostgres(dataPath string) bool {
	return postgresScheme.MatchString(dataPath) || userPassword.MatchString(dataPath) || len(postgresKeyword.FindAllString(dataPath, 2)) == 2
}

// CheckPostgresURL refuses a PostgreSQL URL in which a password's special characters seem to end the password early.
// The rest of such a password would be logged, and looked up in the DNS.
func CheckPostgresURL(u *url.URL) error {
	strayed := strings.Contains(u.Host+u.EscapedPath()+u.RawQuery, "@") || u.Fragment != ""
	for _, parameter := range strings.Split(u.RawQuery, "&") {
		strayed = strayed || parameter != "" && !strings.Contains(parameter, "=")
	}
	if strayed {
		return errors.New("the PostgreSQL URL of the store has an @, a # or an & where none can be: percent-encode them in a password and in names, @ as %40, # as %23, & as %26, / as %2F, ? as %3F and % as %25")
	}
	return nil
}

// HasPassword reports whether a PostgreSQL URL holds a password, which belongs in a file. It is true for one that cannot be read.
func HasPassword(dataPath string) bool {
	if !IsPostgres(dataPath) {
		return false
	}
	u, err := url.Parse(dataPath)
	if err != nil {
		return true
	}
	_, there := u.User.Password()
	return there || u.Query().Has("password")
}
