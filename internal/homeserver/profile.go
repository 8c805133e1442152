// profile.go owns the profile of a user: whether the user exists, the display name, and how to set that. Every way of creating
// accounts needs to know.

package homeserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Paths of the profile.
const (
	profilePath    = "/_matrix/client/r0/profile/"
	setProfilePath = "/_matrix/client/v3/profile/" // where a display name is set
)

// A profileForm is a form of the request for a profile.
type profileForm int

const (
	asNobody  profileForm = iota // without a token
	asService                    // with the as_token
	asUser                       // with the as_token, as the user whose profile it is
)

// profileFormTime is how long the form that worked is tried first.
const profileFormTime = time.Minute

// The reasons why a profile is hidden. Each says what the operator can do.
var (
	errNoASToken      = errors.New("the homeserver shows no profile without a token, and this service has no as_token: start it with the registration.yaml that genconfig writes, and list that in app_service_config_files; or write require_auth_for_profile_requests: false into homeserver.yaml; then restart the homeserver")
	errUnknownASToken = errors.New("the homeserver shows no profile without a token, and does not know the as_token: list this registration.yaml in app_service_config_files, or write require_auth_for_profile_requests: false into homeserver.yaml; then restart the homeserver")
	errOnlyToOwner    = errors.New("the homeserver shows a profile only to the user and to those who share a room with the user, and does not find this user in the namespaces of registration.yaml or among its users: write limit_profile_requests_to_users_who_share_rooms: false into homeserver.yaml, and restart it")
)

// DisplayName returns the display name of a user, or ErrNoUser. It does not ask for the whole profile, since today's Synapse
// answers 404 to that for a user without a name.
//
// The first request has no token, so that a token which the homeserver does not know hides no public profile. If the answer is
// that a token is missing, the second has the as_token. If that is refused, the third acts as the user. The form that worked is
// tried first for a minute; if it is refused, all are tried.
func (h *Client) DisplayName(ctx context.Context, userID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ReadTime) // for all forms, so that an attempt has time for the rest
	defer cancel()
	var first *profileAnswer
	last, _ := h.profileForm.Known()
	if last != asNobody {
		answer := h.askProfile(ctx, userID, last)
		if !answer.refused() {
			return answer.name, answer.err
		}
		first = &answer
	}
	for form := asNobody; ; form++ {
		answer := profileAnswer{}
		if first != nil && form == last { // it was tried already
			answer = *first
		} else {
			answer = h.askProfile(ctx, userID, form)
		}
		if answer.told() {
			h.profileForm.Learn(form, profileFormTime)
		}
		switch {
		case h.ASToken != "" && form == asNobody && answer.status == http.StatusUnauthorized && answer.errcode == codeMissingToken:
		case form == asService && answer.status == http.StatusForbidden:
		default:
			return answer.name, answer.err
		}
	}
}

// errMayNotSet is the reason why the as_token cannot set a display name.
var errMayNotSet = errors.New("the as_token may not set the display name: list this registration.yaml in app_service_config_files, with the nodes in its namespaces, and restart the homeserver")

// SetDisplayName sets the display name of an account, with the as_token and as the user. Its error is an *Error.
func (h *Client) SetDisplayName(ctx context.Context, n Account) error {
	const step = "set the display name"
	user := url.PathEscape(n.UserID)
	a, err := h.Call(ctx, Request{Name: "name", Within: ReadTime, Method: http.MethodPut, Path: setProfilePath + user + "/displayname?user_id=" + user, Token: h.ASToken, Body: map[string]string{"displayname": n.DisplayName}})
	switch {
	case err != nil:
		return InStep(step, h.NotReached(err))
	case a.Status == http.StatusOK && a.Cut == nil && IsObject(a.Body):
		return nil
	}
	failed := InStep(step, h.Failure(a, ""))
	if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden {
		failed.Cause = fmt.Errorf("%w: %w", errMayNotSet, failed.Cause)
	}
	return failed
}

// A profileAnswer is the answer to one request for a profile.
type profileAnswer struct {
	status  int // 0 where there was no answer
	errcode string
	name    string
	err     error // ErrNoUser, or an *Error
}

// told reports whether the answer says if the user exists.
func (a profileAnswer) told() bool { return a.err == nil || errors.Is(a.err, ErrNoUser) }

// refused reports whether another form may get another answer.
func (a profileAnswer) refused() bool {
	return !a.told() && a.status/100 == 4 && !Answer{Status: a.status}.TellsNothing()
}

// askProfile makes one request.
func (h *Client) askProfile(ctx context.Context, userID string, form profileForm) profileAnswer {
	absent := func(a Answer) bool { return a.Errcode == codeNotFound }
	user := url.PathEscape(userID)
	r := Request{Name: "profile", Within: ReadTime, Method: http.MethodGet, Path: profilePath + user + "/displayname", Absent: absent}
	if form != asNobody {
		r.Token = h.ASToken
	}
	if form == asUser {
		r.Path += "?user_id=" + user
	}
	a, err := h.Call(ctx, r)
	if err != nil {
		return profileAnswer{err: NotSent(h.NotReached(err))}
	}
	answer := profileAnswer{status: a.Status, errcode: a.Errcode}
	if a.Status == http.StatusNotFound && absent(a) {
		answer.err = ErrNoUser
		return answer
	}
	name, ok := a.profileName()
	if !ok {
		answer.err = h.hiddenProfile(a, form)
	}
	answer.name = name
	return answer
}

// hiddenProfile is the failure of an answer that says nothing about the user. The reason follows from the status and the form,
// never from the words of the homeserver.
func (h *Client) hiddenProfile(a Answer, form profileForm) *Error {
	failed := NotSent(h.Failure(a, "the profile of the user cannot be read"))
	failed.Hidden = a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden
	why := map[profileForm]error{asNobody: errNoASToken, asService: errUnknownASToken, asUser: errOnlyToOwner}[form]
	if form == asNobody && (a.Errcode != codeMissingToken || h.ASToken != "") {
		why = nil
	}
	if failed.Hidden && why != nil {
		failed.Cause = fmt.Errorf("%w: %w", why, failed.Cause)
	}
	return failed
}

// WhyHidden returns why a profile is hidden, and what to do.
func WhyHidden(err error) (why, do string) {
	for _, known := range []error{errNoASToken, errUnknownASToken, errOnlyToOwner} {
		if errors.Is(err, known) {
			why, do, _ = strings.Cut(known.Error(), ": ")
			return why, do
		}
	}
	return err.Error(), "see the homeserver's log, and what is between it and this service"
}

// profileName reads the display name of a profile, which may have none. What holds anything else is the answer to another
// question.
func (a Answer) profileName() (name string, ok bool) {
	var profile map[string]json.RawMessage
	if a.Status != http.StatusOK || a.Cut != nil || !IsObject(a.Body) || json.Unmarshal(a.Body, &profile) != nil {
		return "", false
	}
	said, named := profile["displayname"]
	if named && json.Unmarshal(said, &name) != nil || named && len(profile) > 1 || !named && len(profile) > 0 {
		return "", false
	}
	return name, true
}
