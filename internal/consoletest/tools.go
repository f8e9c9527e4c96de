package consoletest

import (
	"net/http"
	"strings"
)

// tools are the endpoints that snowplow-cli and Snowtype read besides the
// exchange, below an organization's path, and what they answer: nothing is
// there. What has no entry is answered with 404.
var tools = map[string]struct {
	status int
	body   any
}{
	"GET /data-structures/v1":                      {http.StatusOK, []any{}},
	"GET /data-structures/v1/schemas/versions":     {http.StatusOK, []any{}},
	"GET /data-structures/v1/{hash}":               {http.StatusNotFound, map[string]any{"message": "no such data structure"}},
	"GET /data-structures/v1/{hash}/versions/{v}":  {http.StatusNotFound, map[string]any{"message": "no such version"}},
	"GET /data-structures/v1/{hash}/deployments":   {http.StatusOK, []any{}},
	"GET /data-structure-drafts/v1/schemas":        {http.StatusOK, []any{}},
	"POST /data-structures/v1/validation-requests": {http.StatusOK, map[string]any{"success": true, "errors": []any{}, "warnings": []any{}, "info": []any{}}},
	"GET /data-products/v2": {http.StatusOK, map[string]any{
		"data":     []any{},
		"includes": map[string]any{"owners": []any{}, "eventSpecs": []any{}, "sourceApplications": []any{}},
	}},
	"GET /source-apps/v1":  {http.StatusOK, map[string]any{"data": []any{}}},
	"GET /images/v1":       {http.StatusOK, map[string]any{"items": []any{}}},
	"GET /destinations/v3": {http.StatusOK, []any{}},
}

// handleTools adds the endpoints of tools, for JWTs of the organization alone.
func (c *Console) handleTools() {
	for endpoint, answer := range tools {
		method, path, _ := strings.Cut(endpoint, " ")
		c.mux.HandleFunc("/api/msc/v1/organizations/{organization}"+path, func(w http.ResponseWriter, r *http.Request) {
			claims, ok := c.authorized(r)
			switch {
			case !allowed(w, r, method):
			case !ok:
				writeError(w, http.StatusUnauthorized, "invalid or expired JWT")
			case claims["org"] != r.PathValue("organization"):
				writeError(w, http.StatusForbidden, "not an organization of this JWT")
			default:
				writeJSON(w, answer.status, answer.body)
			}
		})
	}
}
