// Package docs_test checks the documentation against the repository: links and the messages of the code.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = ".."

var (
	fenced   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	code     = regexp.MustCompile("`[^`\n]*`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	external = regexp.MustCompile(`^[a-z]+:`)
)

// pages are all Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules" || entry.Name() == "bin" || entry.Name() == "dist"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			found = append(found, path)
		}
		return nil
	}))
	require.NotEmpty(t, found)
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func TestRelativeLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, page := range pages(t) {
		text := code.ReplaceAllString(fenced.ReplaceAllString(read(t, page), ""), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target, fragment, _ := strings.Cut(match[1], "#")
			if external.MatchString(match[1]) {
				continue
			}
			checked++
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(file); !assert.NoError(t, err, "%s links to %s", page, match[1]) || fragment == "" {
				continue
			}
			assert.Contains(t, anchors(read(t, file)), fragment, "%s links to %s", page, match[1])
		}
	}
	require.NotZero(t, checked, "links checked")
}

// anchors are what GitHub makes of the headings of a page.
func anchors(page string) []string {
	var all []string
	for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		text := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(match[1], "$1")
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			default:
				return -1
			}
		}, strings.TrimSpace(text)))
	}
	return all
}

// makers are the functions whose text can reach a user as an error or a warning.
var makers = map[string]bool{
	"invalidf": true, "errorf": true, "unreachable": true, "New": true, "Errorf": true, "ErrorResponse": true, "CodedError": true,
}

var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(\.[0-9]+)?[a-zA-Z]`)

// A message is found if a line of the page has its text, with anything in the place of what is filled in.
func TestEveryMessageIsExplained(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.ReplaceAll(read(t, "troubleshooting.md"), `\|`, "|"), "\n")
	checked := 0
	for _, pattern := range []string{"*.go", "internal/console/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for position, message := range messages(t, file) {
				checked++
				assert.True(t, explained(message, lines), "%s: troubleshooting.md does not have the message %q", position, message)
			}
		}
	}
	require.Greater(t, checked, 80, "messages found in the code")
}

func explained(message string, lines []string) bool {
	var parts []string
	for _, part := range verb.Split(message, -1) {
		if part = strings.TrimSpace(strings.Trim(part, " :;'\"")); part != "" {
			parts = append(parts, regexp.QuoteMeta(part))
		}
	}
	pattern := regexp.MustCompile(strings.Join(parts, ".*?"))
	for _, line := range lines {
		if pattern.MatchString(line) {
			return true
		}
	}
	return false
}

// messages are the texts that a file makes errors and warnings of, by where they are.
func messages(t *testing.T, path string) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, 0)
	require.NoError(t, err)
	found := map[string]string{}
	add := func(expression ast.Expr) {
		literal, ok := expression.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return
		}
		text, err := strconv.Unquote(literal.Value)
		require.NoError(t, err)
		if strings.Contains(strings.TrimSpace(verb.ReplaceAllString(text, "")), " ") { // not just glue
			found[files.Position(literal.Pos()).String()] = text
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			return node.Name.Name != "String" // what fmt prints of a value is no message
		case *ast.CompositeLit: // a list of warnings
			if list, ok := node.Type.(*ast.ArrayType); ok && list.Len == nil {
				for _, element := range node.Elts {
					add(element)
				}
			}
		case *ast.CallExpr:
			name := ""
			switch function := node.Fun.(type) {
			case *ast.Ident:
				name = function.Name
			case *ast.SelectorExpr:
				name = function.Sel.Name
			}
			if makers[name] {
				for _, argument := range node.Args {
					add(argument)
				}
			}
			// Warnings are made with Sprintf, or of plain text.
			if name == "Sprintf" || name == "AddWarning" || name == "append" {
				for _, argument := range node.Args {
					if sum, ok := argument.(*ast.BinaryExpr); ok {
						argument = sum.X
					}
					add(argument)
				}
			}
		case *ast.AssignStmt: // the parts that a message is put together from
			for _, value := range node.Rhs {
				add(value)
			}
		}
		return true
	})
	return found
}
