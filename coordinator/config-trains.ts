/** The keys of `[[trains]]`, the policy by name of machine, and what must fit together in them. Read by config.ts. */
import * as v from 'valibot'
import { ROLES } from '../protocol/http.ts'
import { type ValuesOf, field, flag, rules, texts } from './config-kinds.ts'
import { nameMatcher } from './pattern.ts'

const isMatcher = (text: string) => 'matches' in nameMatcher(text)
const PATTERNS = 'a list of names and patterns as in a request: "dev-*", "dev-(db|mq)-[0-9]+"'

export const TRAIN = {
  name: field(
    'The name of a train; the section [[trains]] may stand any number of times, once for each. A machine that several trains match is of all of them, and the strictest counts.',
    'a short name: lower-case letters, digits and -',
    v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9-]{0,31}$/)),
  ),
  machines: {
    ...texts('The machines of the train.', `${PATTERNS}; at least one`, isMatcher),
    schema: v.pipe(v.array(v.pipe(v.string(), v.check(isMatcher))), v.minLength(1), v.readonly()),
    fallback: undefined,
  },
  approval: flag(
    'Whether a person must approve. With false a change is approved by the policy of the train; only where the provider is "local".',
    true,
  ),
  roles: field(
    'Roles of which one is enough to ask, among those who may ask at all. Without roles and people all of these may.',
    `a list of ${ROLES.map((role) => `"${role}"`).join(', ')}`,
    v.pipe(v.array(v.picklist(ROLES)), v.readonly()),
    [] as readonly (typeof ROLES)[number][],
  ),
  people: texts('People who may ask, beside those roles.', 'a list of names of users', (name) =>
    /^[a-z0-9][a-z0-9._@-]{0,63}$/.test(name),
  ),
  except: texts(
    'Machines that no request for the train gets: a pattern leaves them out, a name is refused.',
    PATTERNS,
    isMatcher,
  ),
  windows: rules(
    'When its machines may be patched, inside those of [schedule]: a request without window: gets the next one, and its own must lie within one. None means always.',
  ),
}

/** What only makes sense together, as the key, the problem and the remedy. */
export function trainProblems(
  trains: readonly ValuesOf<typeof TRAIN>[],
  provider: string,
): (readonly [key: string, problem: string, remedy: string])[] {
  return trains.flatMap(({ name, approval }, index) => {
    const key = `trains.${index + 1}`
    const isTwice = trains.findIndex((train) => train.name === name) < index
    return [
      ...(isTwice ? [[`${key}.name`, `is ${name} a second time`, 'give each train a name of its own'] as const] : []),
      ...(approval || provider === 'local'
        ? []
        : [
            [
              `${key}.approval`,
              `can't be false where changes are raised in ${provider}, which decides about their approval itself`,
              `leave it out, and let ${provider} approve the changes of this train (an approval policy, or a model that needs none)`,
            ] as const,
          ]),
    ]
  })
}
