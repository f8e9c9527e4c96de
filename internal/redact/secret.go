package redact

import (
	"encoding/json"
	"fmt"
	"io"
	"unique"
)

// Secret is a string that nothing prints. Only Reveal returns it, and JSON, because that is what storage holds.
// Equal secrets are equal by ==.
type Secret struct {
	// fmt calls no method on unexported fields and prints what they hold: of a string its text, of a handle its address.
	handle unique.Handle[string]
}

// NewSecret makes a Secret of text. Without text, it is the zero Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{unique.Make(text)}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s == (Secret{}) {
		return ""
	}
	return s.handle.Value()
}

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, redacted) }

// MarshalJSON implements [json.Marshaler].
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }

// UnmarshalText implements [encoding.TextUnmarshaler], which JSON calls for a string.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}
