// store_record.go owns how the JSON of a record is read, and of a line of a listing: as fast as a million of them need it.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// decodeRecord reads a record as Save wrote it. It refuses an unknown state.
func decodeRecord(value []byte) (record, error) {
	r, isPlain := plainRecord(value)
	if !isPlain {
		r = record{}
		if err := json.Unmarshal(value, &r); err != nil {
			return record{}, fmt.Errorf("decode the record: %w", err)
		}
	}
	if buckets[r.State] == "" {
		return record{}, errors.New("decode the record: unknown state")
	}
	return r, nil
}

// plainRecord reads the record if it is plain.
func plainRecord(value []byte) (r record, isPlain bool) {
	isPlain = plainFields(value, func(key, text []byte) bool {
		switch string(key) {
		case "localpart":
			r.Localpart = string(text)
		case "user_id":
			r.UserID = string(text)
		case "displayname":
			r.DisplayName = string(text)
		case "state":
			r.State = state(text)
		case "created":
			return r.Created.UnmarshalText(text) == nil
		case "updated":
			return r.Updated.UnmarshalText(text) == nil
		default:
			return false
		}
		return true
	})
	return r, isPlain
}

// decodeListed reads a line of a listing.
func decodeListed(line []byte) (listedUser, error) {
	if u, isPlain := plainListed(line); isPlain {
		return u, nil
	}
	var u listedUser
	err := json.Unmarshal(line, &u)
	return u, err
}

// plainListed reads the line if it is plain.
func plainListed(line []byte) (u listedUser, isPlain bool) {
	isPlain = plainFields(line, func(key, text []byte) bool {
		switch string(key) {
		case "localpart":
			u.Localpart = string(text)
		case "user_id":
			u.UserID = string(text)
		case "state":
			u.State = state(text)
		case "created":
			return u.Created.UnmarshalText(text) == nil
		case "updated":
			return u.Updated.UnmarshalText(text) == nil
		case "banned":
			u.Banned = new(time.Time)
			return u.Banned.UnmarshalText(text) == nil
		default:
			return false
		}
		return true
	})
	return u, isPlain
}

// plainFields gives the fields of a JSON object to the function, if it is plain: all of them are texts, nothing is escaped, and
// there is no white space. This is how encoding/json writes ours. It returns false for any other object, and when the function does.
// Then encoding/json reads the object, which takes ten times as long.
func plainFields(object []byte, set func(key, text []byte) bool) bool {
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' {
		return false
	}
	for rest := object[1 : len(object)-1]; ; rest = rest[1:] {
		key, after, ok := plainText(rest)
		if !ok || len(after) == 0 || after[0] != ':' {
			return false
		}
		text, after, ok := plainText(after[1:])
		if !ok || !set(key, text) {
			return false
		}
		if rest = after; len(rest) == 0 {
			return true
		}
		if rest[0] != ',' {
			return false
		}
	}
}

// plainText reads a JSON text of ASCII without escapes, and returns what follows it.
func plainText(b []byte) (text, after []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	b = b[1:]
	for i, c := range b {
		switch {
		case c == '"':
			return b[:i], b[i+1:], true
		case c < ' ' || c == '\\' || c > '~':
			return nil, nil, false
		}
	}
	return nil, nil, false
}
