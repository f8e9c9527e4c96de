package snowplow

import (
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/tokencache"
)

type tokenKey = tokencache.Key
type tokenEntry = tokencache.Entry

const (
	maxReaderWait        = 2 * time.Second
	loadTimeout          = time.Second
	storeTimeout         = 5 * time.Second
	keepFailure          = 24 * time.Hour
	maxTidied            = 100
	maxClockSkew         = time.Minute
	firstBackOff         = time.Second
	maxBackOffWithoutJWT = 10 * time.Second
	backOffJitter        = 0.2
)
