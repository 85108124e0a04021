package queue

// SetRoom sets how many consumers may wait at the streams.
func (q *Queue) SetRoom(n int) { q.room = n }
