// commit.go owns how changes get on disk: those that come while a commit waits for the disk go into the next one together.
// bbolt's Batch does so too, but has a lone writer wait for company that does not come.

package boltfile

import (
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// A change is what one writer wants to do.
type change struct {
	do   func(*bolt.Tx) error
	turn chan bool // told true to commit what is queued, false once that was done
	err  error     // what came of it
}

// A committer has writers commit in turn: the first of those that queued up commits for all of them.
type committer struct {
	mu         sync.Mutex
	queue      []*change
	committing bool
}

// Update returns when what the function does is on disk, or could not be done. The function shares a transaction with
// those of others, and may be run more than once: where one of them fails, nothing of it is on disk, and it costs the
// others nothing.
func (f *File) Update(do func(*bolt.Tx) error) error {
	f.writers.RLock()
	defer f.writers.RUnlock()
	c := &change{do: do, turn: make(chan bool, 1)}
	if f.group.enqueue(c) || <-c.turn {
		f.commitQueue()
	}
	return c.err
}

// enqueue tells whether nobody commits, so that this writer has to.
func (g *committer) enqueue(c *change) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, c)
	first = !g.committing
	g.committing = true
	return first
}

// commitQueue commits what is queued, the caller's own change first, and leaves what came meanwhile to the first there.
func (f *File) commitQueue() {
	g := &f.group
	g.mu.Lock()
	group := g.queue
	g.queue = nil
	g.mu.Unlock()

	f.commit(slices.Clone(group))

	g.mu.Lock()
	if g.committing = len(g.queue) > 0; g.committing {
		g.queue[0].turn <- true
	}
	g.mu.Unlock()
	for _, c := range group[1:] {
		c.turn <- false
	}
}

// commit makes the changes in one transaction. One that cannot be made is left out, and the others are made anew.
func (f *File) commit(group []*change) {
	for len(group) > 0 {
		bad, err := f.tryCommit(group)
		if bad == nil {
			for _, c := range group {
				c.err = err
			}
			return
		}
		bad.err = err
		group = slices.DeleteFunc(group, func(c *change) bool { return c == bad })
	}
}

// tryCommit makes all of the changes or none, and names the one that is to blame if one is.
func (f *File) tryCommit(group []*change) (bad *change, err error) {
	err = f.update(func(tx *bolt.Tx) error {
		for _, bad = range group {
			if err := bad.do(tx); err != nil {
				return err
			}
		}
		bad = nil
		return nil
	})
	return bad, err
}
