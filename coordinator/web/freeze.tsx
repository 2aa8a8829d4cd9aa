/** Freezing and unfreezing the whole instance, for whoever may: stopping is cheap, starting is not. */
import { ActionButton } from './dialog.tsx'
import { UNFREEZE } from './lifts.ts'
import { may } from './state.ts'

export function FreezeButton({ isFrozen }: { readonly isFrozen: boolean }) {
  if (isFrozen) {
    if (!may('admin')) return null
    return <ActionButton action={UNFREEZE} />
  }
  if (!may('requester', 'approver', 'admin')) return null
  return (
    <p class="corner">
      <ActionButton
        action={{
          label: 'Freeze',
          about:
            'Nothing more is granted in the whole instance until an admin unfreezes it. What runs now goes on to its end.',
          command: 'smith freeze --reason REASON',
          name: 'freeze',
          input: { body: {} },
          reason: 'allowed',
          tone: 'danger',
        }}
      />
    </p>
  )
}
