package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var modified = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

// entry is what a user finds after unpacking.
type entry struct {
	name, content string
	mode          fs.FileMode
}

func TestTheSameContentGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{".tar.gz", ".zip"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			// The second folder lies elsewhere, was written at another time in another order, and its modes differ in
			// what an umask makes of them.
			one := folder(t, time.Unix(1, 0), []entry{{"b/program", "machine code", 0o755}, {"a.json", "{}", 0o644}, {"z", "", 0o644}})
			two := folder(t, time.Unix(99, 5), []entry{{"z", "", 0o600}, {"a.json", "{}", 0o640}, {"b/program", "machine code", 0o700}})

			archives := make([][]byte, 0, 2)
			for _, f := range []string{one, two} {
				// The name of the archive may not be in it, either.
				out := filepath.Join(t.TempDir(), filepath.Base(filepath.Dir(f))+suffix)
				require.NoError(t, pack(out, f, modified))
				content, err := os.ReadFile(out)
				require.NoError(t, err)
				archives = append(archives, content)
				require.Equal(t, []entry{
					{"release_v1/a.json", "{}", 0o644},
					{"release_v1/b/program", "machine code", 0o755},
					{"release_v1/z", "", 0o644},
				}, unpack(t, out), "in order of the names, each at the one time")
			}
			require.Equal(t, archives[0], archives[1], "the bytes of the two archives")
		})
	}
}

func TestNoHalfArchiveIsLeft(t *testing.T) {
	t.Parallel()
	f := folder(t, time.Unix(1, 0), []entry{{"a", "first", 0o644}})
	require.NoError(t, os.Symlink("a", filepath.Join(f, "link")))
	for _, suffix := range []string{".tar.gz", ".zip"} {
		out := filepath.Join(t.TempDir(), "x"+suffix)
		require.ErrorContains(t, pack(out, f, modified), "link is not a regular file")
		require.NoFileExists(t, out)
	}
	require.ErrorContains(t, pack(filepath.Join(t.TempDir(), "x.rar"), f, modified), "must end in .tar.gz or .zip")
}

func folder(t *testing.T, at time.Time, entries []entry) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "release_v1")
	for _, e := range entries {
		path := filepath.Join(root, e.name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(e.content), e.mode))
		require.NoError(t, os.Chmod(path, e.mode))
		require.NoError(t, os.Chtimes(path, at, at))
	}
	return root
}

// unpack reads an archive with the standard library's readers. What TestTheSameContent expects of every entry alike,
// it checks here.
func unpack(t *testing.T, path string) []entry {
	t.Helper()
	var entries []entry
	if filepath.Ext(path) == ".zip" {
		r, err := zip.OpenReader(path)
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close()) }()
		for _, f := range r.File {
			require.True(t, modified.Equal(f.Modified), "the time of %s is %s", f.Name, f.Modified)
			content, err := f.Open()
			require.NoError(t, err)
			entries = append(entries, entry{f.Name, read(t, content), f.Mode()})
		}
		return entries
	}

	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	z, err := gzip.NewReader(file)
	require.NoError(t, err)
	require.Zero(t, z.ModTime, "the time in gzip's header")
	require.Empty(t, z.Name, "the name in gzip's header")
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if err == io.EOF {
			return entries
		}
		require.NoError(t, err)
		require.True(t, modified.Equal(header.ModTime), "the time of %s is %s", header.Name, header.ModTime)
		require.Zero(t, header.Uid+header.Gid, "the owner of %s", header.Name)
		require.Empty(t, header.Uname+header.Gname, "the owner of %s", header.Name)
		entries = append(entries, entry{header.Name, read(t, r), header.FileInfo().Mode()})
	}
}

func read(t *testing.T, r io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(content)
}
