//go:build examples

// Package examples holds what only the guide's examples import, so that `go mod tidy` keeps it.
package examples

import (
	_ "github.com/volcengine/volcengine-go-sdk/volcengine/universal"
)
