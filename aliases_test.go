package snowplow

import "github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"

// For the prototype only: the names that the root's tests knew.
type (
	tokenKey   = tokencache.Key
	tokenEntry = tokencache.Entry
)

const (
	maxReaderWait        = tokencache.MaxReaderWait
	loadTimeout          = tokencache.LoadTimeout
	storeTimeout         = tokencache.StoreTimeout
	keepFailure          = tokencache.KeepUnread
	maxTidied            = tokencache.MaxSwept
	maxClockSkew         = tokencache.MaxClockSkew
	firstBackOff         = tokencache.FirstBackOff
	maxBackOffWithoutJWT = tokencache.MaxBackOffWithoutJWT
	backOffJitter        = tokencache.BackOffJitter
)
