// cmd_completion.go owns what shells complete: the values of flags that have few, beside what the library offers.

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/urfave/cli/v3"
)

// completionFlag is what a shell's completion script ends its call with.
const completionFlag = "--generate-shell-completion"

// valuesOf are the values that a flag can have. A shell completes any other value as the name of a file.
func valuesOf(flag string) []string {
	switch flag {
	case flagState:
		return []string{string(stateRegistered), string(statePending), string(stateBanned)}
	case flagFormat:
		return formats
	}
	return config.Choices(flag)
}

// completeValues answers a completion script. Where the word before the cursor is a flag, it offers the values of that; the rest is
// the library's.
func completeValues(ctx context.Context, cmd *cli.Command) {
	if at := slices.Index(os.Args, completionFlag); at > 0 {
		if name, isFlag := strings.CutPrefix(os.Args[at-1], "--"); isFlag {
			for _, value := range valuesOf(name) {
				fmt.Fprintln(cmd.Root().Writer, value)
			}
		}
	}
	cli.DefaultCompleteWithFlags(ctx, cmd)
}

// configureCompletion says what bash's script needs, where it is shown and in the script.
func configureCompletion(completion *cli.Command) {
	const needs = "bash's needs the package bash-completion."
	completion.Description = needs + " " + completion.Description
	for _, shell := range completion.Commands {
		if shell.Name != "bash" {
			continue
		}
		print := shell.Action
		shell.Action = func(ctx context.Context, cmd *cli.Command) error {
			fmt.Fprintln(cmd.Root().Writer, "# It needs bash-completion: apt-get install bash-completion")
			return print(ctx, cmd)
		}
	}
}
