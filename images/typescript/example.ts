// What this image offers, used once, with types: prints `ok`.
import assert from 'node:assert'
import _ from 'lodash'
import { evaluate } from 'mathjs'
import dayjs from 'dayjs'
import { z } from 'zod'

const chunks: number[][] = _.chunk([1, 2, 3], 2)
assert.deepEqual(chunks, [[1, 2], [3]])
assert.equal(evaluate('1 + 2'), 3)
assert.equal(dayjs('2026-02-28').add(1, 'day').format('YYYY-MM-DD'), '2026-03-01')
const User = z.object({ name: z.string() })
type User = z.infer<typeof User>
const user: User = User.parse({ name: 'a' })
assert.equal(user.name, 'a')
console.log('ok')
