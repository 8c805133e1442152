// commit.go owns how changes get on disk: all that come while a commit waits for the disk share the next commit. bbolt's Batch
// does that too, but delays a writer that is alone.

package boltfile

import (
	"runtime"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// A change is the change of one writer.
type change struct {
	do   func(*bolt.Tx) error
	turn chan bool // receives true if this writer has to commit the queue, false when its change was committed
	err  error     // the outcome
}

// A committer lets writers commit in turn: the first one in the queue commits the changes of all.
type committer struct {
	mu         sync.Mutex
	queue      []*change
	committing bool
}

// Update returns when the change of the function is on disk, or has failed. The function shares a transaction with those of
// other writers, and may run more than once: if one of them fails, nothing of it is on disk, and the others run again.
func (f *File) Update(do func(*bolt.Tx) error) error {
	f.writers.RLock()
	defer f.writers.RUnlock()
	c := &change{do: do, turn: make(chan bool, 1)}
	if f.group.enqueue(c) || <-c.turn {
		f.commitQueue()
	}
	return c.err
}

// enqueue adds the change to the queue. First is true if nobody is committing: then this writer has to.
func (g *committer) enqueue(c *change) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, c)
	first = !g.committing
	g.committing = true
	return first
}

// commitQueue commits the queue, whose first change is the caller's. The first writer that came meanwhile commits the next one.
func (f *File) commitQueue() {
	runtime.Gosched() // those that can run may have a change for this commit, too
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

// tryCommit makes all of the changes or none. Bad is the change that failed, if it was one of them.
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
