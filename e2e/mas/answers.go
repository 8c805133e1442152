// Package mas is a stand-in for Matrix Authentication Service, which no package registry has. It plays what was
// captured from versions 1.3 and 1.22, for one homeserver: a real one, or another stand-in.
//
// answers.go owns what is expected of Matrix Authentication Service: the stand-in answers by this table, and a test
// holds the table against whatever service it is given, a real one too.
package mas

import "strings"

// Paths of the service.
const (
	TokenPath      = "/oauth2/token"
	IntrospectPath = "/oauth2/introspect"
	DiscoveryPath  = "/.well-known/openid-configuration"
	UsersPath      = "/api/admin/v1/users"
	ByNamePath     = UsersPath + "/by-username/"
	PasswordPath   = "/set-password" // behind UsersPath and an id
	SitePath       = "/api/admin/v1/site-config"
)

// AdminScope is the scope that the admin API needs.
const AdminScope = "urn:mas:admin"

// A Case is something that the service is asked.
type Case string

// What a gateway asks, and may be answered.
const (
	TokenGranted   Case = "a token for the client with its secret"
	TokenBadSecret Case = "a token for the client with another secret"
	TokenNotAdmin  Case = "a token for a client that is not listed as admin"
	NoToken        Case = "the admin API without a good token"
	Created        Case = "a new user"
	Exists         Case = "a user that is there"
	Reserved       Case = "a user that only the homeserver has"
	BadName        Case = "a user with a name that cannot be"
	CannotTell     Case = "a new user while the homeserver is down"
	Found          Case = "the user with a name"
	NotFound       Case = "the user with a name that nobody has"
	PasswordSet    Case = "a password for a user"
	PasswordNobody Case = "a password for nobody"
	PasswordsOff   Case = "a password where passwords are switched off"
	SiteConfig     Case = "the site-config"
)

// An Expected is what a case is answered.
type Expected struct {
	Status int
	Title  string   // of the first error; … stands for a value, and "" for whatever it is
	Error  string   // of an OAuth error
	Fields []string // that are in the body, by their path
}

// Answers are the one table of all that is expected of Matrix Authentication Service.
var Answers = map[Case]Expected{
	TokenGranted:   {Status: 200, Fields: []string{"access_token", "expires_in"}},
	TokenBadSecret: {Status: 401, Error: "invalid_client"},
	TokenNotAdmin:  {Status: 403, Error: "invalid_scope"},
	NoToken:        {Status: 401},
	Created:        {Status: 201, Fields: []string{"data.id", "data.attributes.username"}},
	Exists:         {Status: 409, Title: "User already exists"},
	Reserved:       {Status: 409, Title: "Username is reserved by the homeserver"},
	BadName:        {Status: 400, Title: "Username is not valid"},
	CannotTell:     {Status: 500},
	Found:          {Status: 200, Fields: []string{"data.id", "data.attributes.username"}},
	NotFound:       {Status: 404, Title: `User with username "…" not found`},
	PasswordSet:    {Status: 204},
	PasswordNobody: {Status: 404, Title: "User ID … not found"},
	PasswordsOff:   {Status: 403, Title: "Password auth is disabled"},
	SiteConfig:     {Status: 200, Fields: []string{"server_name", "password_login_enabled"}},
}

// IsTitle tells whether a title is the expected one.
func (e Expected) IsTitle(title string) bool {
	before, after, hasValue := strings.Cut(e.Title, "…")
	if !hasValue {
		return e.Title == "" || title == e.Title
	}
	return len(title) > len(before)+len(after) && strings.HasPrefix(title, before) && strings.HasSuffix(title, after)
}

// with is the title with a value in it.
func (e Expected) with(value string) string { return strings.Replace(e.Title, "…", value, 1) }
