//go:build tools

// tools.go names the programs of Dendrite that the end-to-end tests start. They are built in this module of their
// own, so that the product's go.mod knows nothing of it; no build has the tag above, since a main package cannot be
// imported.

package tools

import (
	_ "github.com/element-hq/dendrite/cmd/dendrite"
	_ "github.com/element-hq/dendrite/cmd/generate-config"
	_ "github.com/element-hq/dendrite/cmd/generate-keys"
)
