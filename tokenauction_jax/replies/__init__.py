"""What else could be auctioned? Mechanisms on replies and segments, the rivals."""

from tokenauction_jax.replies.candidates import Candidates as Candidates
from tokenauction_jax.replies.candidates import draw_candidates as draw_candidates
from tokenauction_jax.replies.candidates import log_importance as log_importance
from tokenauction_jax.replies.candidates import log_ratio_rewards as log_ratio_rewards
from tokenauction_jax.replies.candidates import text_rewards as text_rewards
from tokenauction_jax.replies.reply_auctions import no_auction as no_auction
from tokenauction_jax.replies.reply_auctions import reply_auction as reply_auction
from tokenauction_jax.replies.rules import ReplyMechanism as ReplyMechanism
from tokenauction_jax.replies.rules import best_of as best_of
from tokenauction_jax.replies.rules import mosaic as mosaic
from tokenauction_jax.replies.rules import single_winner as single_winner
from tokenauction_jax.replies.segment_auctions import segment_auction as segment_auction
from tokenauction_jax.replies.segmented_texts import SegmentedTexts as SegmentedTexts
from tokenauction_jax.replies.segmented_texts import write_segments as write_segments
from tokenauction_jax.replies.segments import Placement as Placement
from tokenauction_jax.replies.segments import Segment as Segment
from tokenauction_jax.replies.segments import log_social_welfare as log_social_welfare
from tokenauction_jax.replies.segments import (
    minimum_social_welfare as minimum_social_welfare,
)
from tokenauction_jax.replies.segments import segment as segment
from tokenauction_jax.replies.segments import social_welfare as social_welfare
from tokenauction_jax.replies.text_auctions import TextAuction as TextAuction
from tokenauction_jax.replies.text_auctions import WrittenTexts as WrittenTexts
