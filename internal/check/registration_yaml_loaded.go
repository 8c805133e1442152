// registration_yaml_loaded.go judges registration.yaml as Synapse loads it, where that is stricter than this service, or reads a value otherwise.

package check

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

// asLoaded finds what Synapse refuses of the file. What others find already is left to them: what is missing, and what is no text
// for this service either.
func (chk *checking) asLoaded() []Finding {
	const subject = subjectRegistration + " as Synapse loads it"
	isOfDendrite := chk.server.Name == homeserver.Dendrite || chk.server.Name == "" && slices.ContainsFunc(chk.settings, settingsFile.isDendrite)
	if isOfDendrite || chk.registeredErr != nil {
		return nil
	}
	value, err := synapse.DecodeFile(chk.registered.Path)
	syntax := synapse.SyntaxError{}
	if errors.As(err, &syntax) {
		return []Finding{problem(subject, "repair it there"+restartBoth, "%v; the homeserver does not start with it", err)}
	} else if err != nil {
		return nil
	}
	keys, _ := value.(map[any]any)
	if fault := refusedOf(keys, chk.registered); fault != "" {
		return []Finding{problem(subject, "repair it in "+chk.registered.Path+restartBoth, "%s, and the homeserver does not start", fault)}
	}
	return []Finding{fine(subject, "it is loaded")}
}

// refusedOf is the first fault for which Synapse does not start.
func refusedOf(keys map[any]any, ours config.Registration) string {
	for _, key := range []string{"id", "as_token", "hs_token", "sender_localpart", "url"} {
		own, err := ours.Text(key)
		if text, isText := keys[key].(string); err == nil && own != "" && (!isText || text != own) {
			return key + " is read as something else than this service reads: put it in quotes"
		}
	}
	if sender, _ := keys["sender_localpart"].(string); !plainLocalpart.MatchString(sender) {
		return "sender_localpart has characters that are written otherwise in a URL"
	}
	spaces, isMapping := keys["namespaces"].(map[any]any)
	if !isMapping {
		return "namespaces is not there, or no mapping"
	}
	for _, kind := range []string{"users", "rooms", "aliases"} {
		list, isList := spaces[kind].([]any)
		if _, isThere := spaces[kind]; isThere && !isList {
			return "namespaces." + kind + " is no list"
		}
		for _, item := range list {
			space, _ := item.(map[any]any)
			_, hasRegex := space["regex"].(string)
			_, hasExclusive := space["exclusive"].(bool)
			if !hasRegex || !hasExclusive {
				return fmt.Sprintf("one of namespaces.%s has not both a regex in quotes and exclusive: true or false", kind)
			}
		}
	}
	if protocols, isList := keys["protocols"].([]any); keys["protocols"] != nil && (!isList || len(texts(keys["protocols"])) < len(protocols)) {
		return "protocols is no list of texts"
	}
	return ""
}

// plainLocalpart is what Python's quote leaves as it is.
var plainLocalpart = regexp.MustCompile(`^[0-9A-Za-z_.~/-]*$`)

// cureOfSettings is what to do about settings that cannot be read: to be somebody who may, to name the file, or to repair it.
func cureOfSettings(err error, name, thenRestart string) string {
	if errors.Is(err, os.ErrNotExist) {
		return name
	}
	return cureOf(err, "repair it there"+thenRestart)
}

// cureOf is what to do about a file that cannot be read: to be somebody who may, or else.
func cureOf(err error, otherwise string) string {
	if errors.Is(err, os.ErrPermission) {
		return RunAs(err)
	}
	return otherwise
}
