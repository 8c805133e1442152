// pages.go owns the check of a file's pages before bbolt follows them. In a damaged file the numbers in a page may be anything,
// and bbolt trusts them: a page that claims two billion more pages takes all memory, a page that leads back to itself never
// ends, and neither can be stopped. The format is that of bbolt v1.5.0; pages_test.go fails if go.mod has another version.

package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	bolt "go.etcd.io/bbolt"
)

// Kinds of pages, as their flags say.
const (
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
)

const (
	deepestPage     = 64     // below the root: with two keys a page, more pages than there can be
	freelistCounted = 0xFFFF // the count of a longer free list, whose number of ids is before the ids
	noFreelist      = ^uint64(0)
	bucketElement   = 0x01 // a leaf's element that is a bucket
)

// A pageHead begins each page.
type pageHead struct {
	ID          uint64
	Flags       uint16
	Count       uint16
	Overflowing uint32 // how many pages after it belong to it
}

// A metaPage is one of the first two pages, after its head.
type metaPage struct {
	Magic, Version, PageSize, Flags uint32
	Root, RootSequence              uint64
	Freelist, Count, TxID, Checksum uint64
}

// The elements of a page: one for each key. A branch's element has the page below it.
type (
	branchElement struct {
		Position, KeySize uint32 // from the element's own beginning
		Page              uint64
	}
	leafElement struct{ Flags, Position, KeySize, ValueSize uint32 }
	bucketHead  struct{ Root, Sequence uint64 } // begins the value of a bucket in a leaf; if Root is 0 the bucket's one page follows
)

// filePages are the pages of a file as one transaction sees them.
type filePages struct {
	file io.ReaderAt
	size int64 // of a page
	meta metaPage
	seen []bool
}

// pagesOf reads the transaction's own meta page from its file.
func pagesOf(tx *bolt.Tx, file io.ReaderAt) (*filePages, error) {
	p := &filePages{file: file, size: int64(tx.DB().Info().PageSize)}
	for at := range int64(2) {
		content := make([]byte, binary.Size(pageHead{})+binary.Size(metaPage{}))
		if _, err := file.ReadAt(content, at*p.size); err != nil {
			return nil, err
		}
		content = content[binary.Size(pageHead{}):]
		unpack(content, &p.meta)
		sum := fnv.New64a()
		sum.Write(content[:len(content)-8])
		if p.meta.Checksum == sum.Sum64() && p.meta.TxID == uint64(tx.ID()) {
			return p, nil
		}
	}
	return nil, errors.New("neither of its first pages is right")
}

// unpack reads a value from its bytes, which have to be enough.
func unpack(from []byte, value any) {
	binary.Read(bytes.NewReader(from), binary.NativeEndian, value)
}

// page reads a page and those that belong to it.
func (p *filePages) page(id uint64) (head pageHead, content []byte, err error) {
	start := make([]byte, binary.Size(head))
	if id < 2 || id >= p.meta.Count {
		return head, nil, fmt.Errorf("a page leads to page %d of %d", id, p.meta.Count)
	}
	if _, err := p.file.ReadAt(start, int64(id)*p.size); err != nil {
		return head, nil, err
	}
	unpack(start, &head)
	if head.ID != id || uint64(head.Overflowing) >= p.meta.Count-id {
		return head, nil, fmt.Errorf("page %d is not what it should be", id)
	}
	content = make([]byte, (int64(head.Overflowing)+1)*p.size)
	_, err = p.file.ReadAt(content, int64(id)*p.size)
	return head, content, err
}

// checkFreelist checks the list of the free pages, which bbolt reads when it opens a file.
func (p *filePages) checkFreelist() error {
	if p.meta.Freelist == noFreelist {
		return nil
	}
	head, content, err := p.page(p.meta.Freelist)
	if err != nil {
		return err
	}
	ids, count := content[binary.Size(head):], uint64(head.Count)
	if head.Count == freelistCounted {
		count = 1 + binary.NativeEndian.Uint64(ids)
	}
	if head.Flags != freelistPage || count == 0 && head.Count != 0 || count > uint64(len(ids)/8) {
		return errors.New("the page that should list its free pages holds no such list")
	}
	return nil
}

// checkRoot checks the page with the names of the buckets: bbolt takes a value there for a bucket, however short it is.
func (p *filePages) checkRoot() error {
	head, content, err := p.page(p.meta.Root)
	if err == nil {
		_, err = pagesBelow(head, content)
	}
	return err
}

// check follows every page from the root.
func (p *filePages) check() error {
	p.seen = make([]bool, p.meta.Count)
	return p.follow(p.meta.Root, 0)
}

func (p *filePages) follow(id uint64, depth int) error {
	head, content, err := p.page(id)
	if err != nil {
		return err
	}
	for i := id; i <= id+uint64(head.Overflowing); i++ {
		if p.seen[i] {
			return fmt.Errorf("page %d is there twice", i)
		}
		p.seen[i] = true
	}
	below, err := pagesBelow(head, content)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if len(below) > 0 && depth == deepestPage {
		return fmt.Errorf("page %d is too far below the first", id)
	}
	for _, id := range below {
		if err := p.follow(id, depth+1); err != nil {
			return err
		}
	}
	return nil
}

var errOutside = errors.New("it leads out of itself")

// pagesBelow returns the pages that a page leads to. It fails if an element reaches out of the page.
func pagesBelow(head pageHead, content []byte) (below []uint64, err error) {
	at := binary.Size(head)
	switch {
	case head.Flags == branchPage && head.Count > 0:
		for range head.Count {
			var e branchElement
			if len(content) < at+binary.Size(e) {
				return nil, errOutside
			}
			unpack(content[at:], &e)
			if uint64(len(content)-at) < uint64(e.Position)+uint64(e.KeySize) {
				return nil, errOutside
			}
			below = append(below, e.Page)
			at += binary.Size(e)
		}
	case head.Flags == leafPage:
		for range head.Count {
			var e leafElement
			if len(content) < at+binary.Size(e) {
				return nil, errOutside
			}
			unpack(content[at:], &e)
			value := uint64(e.Position) + uint64(e.KeySize)
			if uint64(len(content)-at) < value+uint64(e.ValueSize) {
				return nil, errOutside
			}
			if e.Flags&bucketElement != 0 {
				more, err := pagesOfBucket(content[uint64(at)+value:][:e.ValueSize])
				if err != nil {
					return nil, err
				}
				below = append(below, more...)
			}
			at += binary.Size(e)
		}
	default:
		return nil, errors.New("it is of no kind that belongs there")
	}
	return below, nil
}

// pagesOfBucket returns the bucket's root page. If the bucket's one page is in the value itself, it returns the pages below that.
func pagesOfBucket(value []byte) ([]uint64, error) {
	var bucket bucketHead
	if len(value) < binary.Size(bucket) {
		return nil, errOutside
	}
	unpack(value, &bucket)
	if bucket.Root != 0 {
		return []uint64{bucket.Root}, nil
	}
	var head pageHead
	content := value[binary.Size(bucket):]
	if len(content) < binary.Size(head) {
		return nil, errOutside
	}
	unpack(content, &head)
	return pagesBelow(head, content)
}
