// Package docs_test checks the documentation against the repository: links, and what the code can say to a user.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// links are the relative links of a page, as files and fragments.
func links(t *testing.T, page string) (found [][2]string) {
	t.Helper()
	text := code.ReplaceAllString(fenced.ReplaceAllString(read(t, page), ""), "")
	for _, match := range link.FindAllStringSubmatch(text, -1) {
		if external.MatchString(match[1]) {
			continue
		}
		target, fragment, _ := strings.Cut(match[1], "#")
		file := page
		if target != "" {
			file = filepath.Join(filepath.Dir(page), target)
		}
		found = append(found, [2]string{file, fragment})
	}
	return found
}

func TestRelativeLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	checked := 0
	require.NoError(t, filepath.WalkDir(root, func(page string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules", "bin", "dist"}, entry.Name()) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(page, ".md") {
			return nil
		}
		for _, target := range links(t, page) {
			checked++
			file, fragment := target[0], target[1]
			if _, err := os.Stat(file); assert.NoError(t, err, "a link of %s", page) && fragment != "" {
				assert.Contains(t, anchors(read(t, file)), fragment, "%s links to %s", page, file)
			}
		}
		return nil
	}))
	require.NotZero(t, checked, "links checked")
}

// anchors are what GitHub makes of the headings of a page.
func anchors(page string) (all []string) {
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

func TestREADMELeadsToEveryPage(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob("*.md")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	listed := links(t, filepath.Join(root, "README.md"))
	for _, page := range found {
		assert.Contains(t, listed, [2]string{filepath.Join(root, "docs", page), ""})
	}
}

// sources are the files of the engine that can say something to a user.
func sources(t *testing.T) (found []string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "internal/tokencache/*.go", "internal/console/*.go", "internal/proxy/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		found = append(found, files...)
	}
	return slices.DeleteFunc(found, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
}

func TestMonitoringPageHasEveryMetricLogLineAndAlert(t *testing.T) {
	t.Parallel()
	page := read(t, "monitoring.md")
	// onPage requires a row or heading for everything that a pattern captures in some files.
	onPage := func(atLeast int, pattern, format string, files ...string) {
		t.Helper()
		found := 0
		for _, file := range files {
			for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1) {
				found++
				wanted := format
				for i, part := range match[1:] {
					wanted = strings.ReplaceAll(wanted, "$"+strconv.Itoa(i+1), regexp.QuoteMeta(part))
				}
				assert.True(t, regexp.MustCompile("(?mi)"+wanted).MatchString(page), "%s has this, and docs/monitoring.md does not: %s", file, match[1:])
			}
		}
		assert.GreaterOrEqual(t, found, atLeast, "%s", pattern)
	}
	onPage(10, `"(snowplow_\w+)"`, "^\\| `$1` \\|", filepath.Join(root, "path_metrics.go"))
	onPage(7, `Reason\s+(?:Reason )?= "(\w+)"`, "^\\| `$1` \\|", filepath.Join(root, "internal/console/failure.go"))
	onPage(4, `(?i:logger)(?:\(\))?\.(Trace|Debug|Info|Warn|Error)\((?:\w+ ?\+ ?)?"([^"]+)"`, "^\\| $1 \\| `[a-z ]*$2`", sources(t)...)
	onPage(8, `(?m)^\s+- alert: (\w+)$`, "^### $1$", filepath.Join(root, "examples/monitoring/alerts.yml"))
	onPage(8, `(?m)^\s+- alert: (\w+)$`, `^\| \[$1\]\(#$1\) \|`, filepath.Join(root, "examples/monitoring/alerts.yml"))
}

// makers are the functions whose text can reach a user as an error or a warning.
var makers = strings.Fields("invalidf errorf unreachable New Errorf ErrorResponse CodedError Sprintf AddWarning append")

var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(\.[0-9]+)?[a-zA-Z]`)

// A message is found if a line of the page has its text, with anything in the place of what is filled in.
func TestEveryMessageIsExplained(t *testing.T) {
	t.Parallel()
	page := strings.ReplaceAll(read(t, "troubleshooting.md"), `\|`, "|")
	checked := 0
	for _, file := range sources(t) {
		found := messages(t, file)
		for _, position := range slices.Sorted(maps.Keys(found)) {
			checked++
			var parts []string
			for _, part := range verb.Split(found[position], -1) {
				parts = append(parts, regexp.QuoteMeta(strings.TrimSpace(strings.Trim(part, " :;'\""))))
			}
			explained := regexp.MustCompile(strings.Join(parts, ".*?")).MatchString(page)
			assert.True(t, explained, "%s: troubleshooting.md does not have the message %q", position, found[position])
		}
	}
	require.Greater(t, checked, 80, "messages found in the code")
}

// messages are the texts that a file makes errors and warnings of, by where they are.
func messages(t *testing.T, path string) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, 0)
	require.NoError(t, err)
	found := map[string]string{}
	add := func(expressions []ast.Expr) {
		for _, expression := range expressions {
			if sum, ok := expression.(*ast.BinaryExpr); ok {
				expression = sum.X
			}
			literal, ok := expression.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				continue
			}
			text, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			if strings.Contains(strings.TrimSpace(verb.ReplaceAllString(text, "")), " ") { // not just glue
				found[files.Position(literal.Pos()).String()] = text
			}
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			return node.Name.Name != "String" // what fmt prints of a value is no message
		case *ast.CompositeLit: // a list of warnings
			if list, ok := node.Type.(*ast.ArrayType); ok && list.Len == nil {
				add(node.Elts)
			}
		case *ast.CallExpr:
			name := ""
			switch function := node.Fun.(type) {
			case *ast.Ident:
				name = function.Name
			case *ast.SelectorExpr:
				name = function.Sel.Name
			}
			if slices.Contains(makers, name) {
				add(node.Args)
			}
		case *ast.AssignStmt: // the parts that a message is put together from
			add(node.Rhs)
		}
		return true
	})
	return found
}
