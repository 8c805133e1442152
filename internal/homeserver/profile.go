// profile.go owns the profile of a user: the question that every way of creating accounts needs, which is whether there is
// such a user and with which display name, and how a display name is set.

package homeserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Paths of the profile.
const (
	profilePath    = "/_matrix/client/r0/profile/"
	SetProfilePath = "/_matrix/client/v3/profile/" // where a display name is set
)

// A profileForm is how a profile is asked for.
type profileForm int

const (
	asNobody  profileForm = iota // without a token
	asService                    // with the as_token
	asUser                       // with the as_token, as the user whose profile it is
)

// profileFormTime is for how long the form that told is tried first.
const profileFormTime = time.Minute

// Why a profile is not shown, and what the operator can do.
var (
	errNoASToken      = errors.New("the homeserver shows no profile without a token, and this service has no as_token: start it with the registration.yaml that genconfig writes, and list that in app_service_config_files; or write require_auth_for_profile_requests: false into homeserver.yaml; then restart the homeserver")
	errUnknownASToken = errors.New("the homeserver shows no profile without a token, and does not know the as_token: list this registration.yaml in app_service_config_files, or write require_auth_for_profile_requests: false into homeserver.yaml; then restart the homeserver")
	errOnlyToOwner    = errors.New("the homeserver shows a profile to those alone who share a room with the user, and to the user, which it does not find in the namespaces of registration.yaml or among its users: write limit_profile_requests_to_users_who_share_rooms: false into homeserver.yaml, and restart it")
)

// DisplayName asks for the display name of a user, which tells whether there is one. The whole profile would
// not do: for a user without a name today's Synapse answers 404 to it.
//
// It asks without a token first, so that a token that the homeserver does not know hides nothing that is public. Where that
// is refused for want of a token it asks with the as_token, and where the service sees no profile but that of who it acts
// for, as the user. What told is tried first for a while, and never alone.
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
		if first != nil && form == last { // which has been asked
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

// A profileAnswer is what came of one question.
type profileAnswer struct {
	status  int // 0 where there was no answer
	errcode string
	name    string
	err     error // ErrNoUser, or an *Error
}

// told is that the answer says whether there is such a user.
func (a profileAnswer) told() bool { return a.err == nil || errors.Is(a.err, ErrNoUser) }

// refused is that another form may be answered otherwise.
func (a profileAnswer) refused() bool {
	return !a.told() && a.status/100 == 4 && !Answer{Status: a.status}.TellsNothing()
}

// askProfile asks in one form.
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

// hiddenProfile is the failure of an answer that tells nothing of the user. What hides it is told by the status and by who
// asked: the words of a homeserver decide nothing.
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
