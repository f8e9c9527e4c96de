package snowplow

import "fmt"

// requestError is an error that the caller can correct: Vault answers it with 400.
type requestError struct{ error }

func (e *requestError) Unwrap() error { return e.error }

func invalidf(format string, args ...any) error {
	return &requestError{fmt.Errorf(format, args...)}
}
