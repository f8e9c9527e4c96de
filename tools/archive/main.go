// Command archive packs a folder so that the same content always gives the same bytes: entries in order of their
// names, one modification time, no owner, and no more of the mode than whether a file can be executed. tar and zip
// programs can do it, too, but not with the same options on each system.
package main

import (
	"archive/tar"
	"archive/zip"
	"compress/flate"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	out := flag.String("o", "", "`file` to write: the name ends in .tar.gz or .zip")
	seconds := flag.Int64("time", -1, "modification `time` of every entry, in seconds since 1970")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: archive -time SECONDS -o FILE FOLDER\n\nPacks FOLDER, under its own name, into FILE.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || *out == "" || *seconds < 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pack(*out, flag.Arg(0), time.Unix(*seconds, 0).UTC()); err != nil {
		fmt.Fprintf(os.Stderr, "archive: packing %s into %s: %v\n", flag.Arg(0), *out, err)
		os.Exit(1)
	}
}

// packer is what tar and zip have in common. It takes regular files only.
type packer interface {
	add(name string, executable bool, size int64, content io.Reader) error
	Close() error
}

func pack(out, folder string, modified time.Time) (err error) {
	newPacker := newTarGz
	switch {
	case strings.HasSuffix(out, ".tar.gz"):
	case strings.HasSuffix(out, ".zip"):
		newPacker = newZip
	default:
		return errors.New("the name of an archive must end in .tar.gz or .zip")
	}

	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		// Half an archive must not pass for one.
		if err = errors.Join(err, file.Close()); err != nil {
			err = errors.Join(err, os.Remove(out))
		}
	}()
	p, err := newPacker(file, modified)
	if err != nil {
		return err
	}
	base := filepath.Base(folder)
	// WalkDir goes by name.
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return addFile(p, base, folder, path)
	})
	if err != nil {
		return err
	}
	return p.Close()
}

func addFile(p packer, base, folder, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	relative, err := filepath.Rel(folder, path)
	if err != nil {
		return err
	}
	content, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // only read
	name := filepath.ToSlash(filepath.Join(base, relative))
	return p.add(name, info.Mode()&0o111 != 0, info.Size(), content)
}

func mode(executable bool) fs.FileMode {
	if executable {
		return 0o755
	}
	return 0o644
}

type tarGz struct {
	gzip     *gzip.Writer
	tar      *tar.Writer
	modified time.Time
}

func newTarGz(w io.Writer, modified time.Time) (packer, error) {
	// Its header stays empty: no name, no time.
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	return &tarGz{gzip: z, tar: tar.NewWriter(z), modified: modified}, nil
}

func (t *tarGz) add(name string, executable bool, size int64, content io.Reader) error {
	header := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     name,
		Mode:     int64(mode(executable)),
		Size:     size,
		ModTime:  t.modified,
	}
	if err := t.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(t.tar, content)
	return err
}

func (t *tarGz) Close() error {
	return errors.Join(t.tar.Close(), t.gzip.Close())
}

type zipFile struct {
	zip      *zip.Writer
	modified time.Time
}

func newZip(w io.Writer, modified time.Time) (packer, error) {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.BestCompression)
	})
	return &zipFile{zip: z, modified: modified}, nil
}

func (z *zipFile) add(name string, executable bool, _ int64, content io.Reader) error {
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: z.modified}
	header.SetMode(mode(executable))
	w, err := z.zip.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, content)
	return err
}

func (z *zipFile) Close() error { return z.zip.Close() }
