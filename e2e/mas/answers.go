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
	PasswordPath   = "/set-password" // after UsersPath and an id
	LockPath       = "/lock"         // likewise
	UnlockPath     = "/unlock"       // likewise
	SitePath       = "/api/admin/v1/site-config"
	VersionPath    = "/api/admin/v1/version"
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
	NoHeader       Case = "the admin API without an Authorization header"
	NoToken        Case = "the admin API without a good token"
	NoAdminAPI     Case = "the admin API at a listener without it"
	Created        Case = "a new user"
	Exists         Case = "a user that is there"
	Reserved       Case = "a user that only the homeserver has"
	CutOff         Case = "a user whose making was cut off before it was kept"
	Forced         Case = "the same, without asking the homeserver"
	BadName        Case = "a user with a name that cannot be"
	Unreached      Case = "a new user while the homeserver is not where matrix.endpoint is"
	Refused        Case = "a new user while the homeserver has another secret than matrix.secret"
	Found          Case = "the user with a name"
	NotFound       Case = "the user with a name that nobody has"
	PasswordSet    Case = "a password for a user"
	PasswordNobody Case = "a password for nobody"
	PasswordsOff   Case = "a password where passwords are switched off"
	Locked         Case = "a user that is locked"
	Unlocked       Case = "a user that is unlocked"
	SiteConfig     Case = "the site-config"
	VersionTold    Case = "the version"
)

// What a node asks, and may be answered.
const (
	LoggedIn       Case = "a login with the password"
	LoginWrong     Case = "a login with another password"
	LoginNobody    Case = "a login of nobody"
	LoginLocked    Case = "a login of a locked user"
	LoginLimited   Case = "a login after many"
	LoginSwitched  Case = "a login with a password where passwords are switched off"
	LoggedOut      Case = "a logout with the token in the header"
	LogoutNoHeader Case = "a logout with the token in the query"
	LogoutAgain    Case = "a logout with a token that is no longer good"
)

// An Expected is what a case is answered.
type Expected struct {
	Status  int
	Title   string   // of the first error; … stands for a value, and "" for whatever it is
	Caused  bool     // further errors follow the first, each the cause of the one before
	Error   string   // of an OAuth error
	Errcode string   // of an error of the client API
	IsHTML  bool     // it is a page
	Fields  []string // that are in the body, by their path
}

// Answers are the one table of all that is expected of Matrix Authentication Service. A real 1.22.0 was run by hand on 2026-11-27:
// all were right but Locked, Unlocked, VersionTold and LogoutAgain, which were added later and are read in its source.
var Answers = map[Case]Expected{
	TokenGranted:   {Status: 200, Fields: []string{"access_token", "expires_in"}},
	TokenBadSecret: {Status: 401, Error: "invalid_client"},
	TokenNotAdmin:  {Status: 403, Error: "invalid_scope"},
	NoHeader:       {Status: 400, Title: "Missing authorization header"},
	NoToken:        {Status: 401},
	NoAdminAPI:     {Status: 404, IsHTML: true},
	Created:        {Status: 201, Fields: []string{"data.id", "data.attributes.username"}},
	Exists:         {Status: 409, Title: "User already exists"},
	Reserved:       {Status: 409, Title: "Username is reserved by the homeserver"},
	CutOff:         {Status: 409, Title: "Username is reserved by the homeserver"},
	Forced:         {Status: 201, Fields: []string{"data.id", "data.attributes.username"}},
	BadName:        {Status: 400, Title: "Username is not valid"},
	Unreached:      {Status: 500, Title: "Failed to check localpart availability from Synapse", Caused: true},
	Refused:        {Status: 500, Title: "Failed to query localpart availability from Synapse", Caused: true},
	Found:          {Status: 200, Fields: []string{"data.id", "data.attributes.username"}},
	NotFound:       {Status: 404, Title: `User with username "…" not found`},
	PasswordSet:    {Status: 204},
	PasswordNobody: {Status: 404, Title: "User ID … not found"},
	PasswordsOff:   {Status: 403, Title: "Password auth is disabled"},
	Locked:         {Status: 200, Fields: []string{"data.id", "data.attributes.locked_at"}},
	Unlocked:       {Status: 200, Fields: []string{"data.id"}},
	SiteConfig:     {Status: 200, Fields: []string{"server_name", "password_login_enabled"}},
	VersionTold:    {Status: 200, Fields: []string{"version"}},

	LoggedIn:       {Status: 200, Fields: []string{"access_token", "user_id", "device_id"}},
	LoginWrong:     {Status: 403, Errcode: "M_FORBIDDEN"},
	LoginNobody:    {Status: 403, Errcode: "M_FORBIDDEN"},
	LoginLocked:    {Status: 401, Errcode: "M_USER_LOCKED"},
	LoginLimited:   {Status: 429, Errcode: "M_LIMIT_EXCEEDED"},
	LoginSwitched:  {Status: 400, Errcode: "M_UNKNOWN"},
	LoggedOut:      {Status: 200},
	LogoutNoHeader: {Status: 401, Errcode: "M_MISSING_TOKEN"},
	LogoutAgain:    {Status: 401, Errcode: "M_UNKNOWN_TOKEN"},
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
